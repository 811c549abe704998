import BlockCore

/// The anti-forensic splitter (LUKS1 specification, section 2.4): a key becomes many stripes, all of which
/// are needed to recover it, so that overwriting a few of them destroys it.
enum AntiForensic {
    /// The stripes of `key`, concatenated.
    static func split(_ key: KeyMaterial, hash: HashAlgorithm) throws(BlockError) -> KeyMaterial {
        let size = key.count
        let last = size * (Luks.stripes - 1)
        return try KeyMaterial(count: size * Luks.stripes) { stripes throws(BlockError) in
            var random = stripes.slice(0..<last)
            try LibCrypto.randomise(&random)
            let mixed = try mix(stripes.bytes.extracting(0..<last), size, hash)
            var end = stripes.slice(last..<last + size)
            end.copy(from: key.bytes)
            combine(&end, mixed.bytes)
        }
    }

    /// The key of `keyBytes` bytes from its stripes.
    static func merge(
        _ stripes: RawSpan, keyBytes: Int, hash: HashAlgorithm
    ) throws(BlockError) -> KeyMaterial {
        let last = keyBytes * (Luks.stripes - 1)
        guard stripes.byteCount >= last + keyBytes else {
            throw BlockError(.corrupt, "The LUKS key material is cut short")
        }
        let mixed = try mix(stripes.extracting(0..<last), keyBytes, hash)
        return KeyMaterial(count: keyBytes) { key in
            key.copy(from: stripes.extracting(last..<last + keyBytes))
            combine(&key, mixed.bytes)
        }
    }

    /// Combines and diffuses stripe after stripe.
    private static func mix(
        _ stripes: RawSpan, _ size: Int, _ hash: HashAlgorithm
    ) throws(BlockError) -> KeyMaterial {
        try KeyMaterial(count: size) { block throws(BlockError) in
            var offset = 0
            while offset < stripes.byteCount {
                combine(&block, stripes.extracting(offset..<offset + size))
                try diffuse(&block, hash)
                offset += size
            }
        }
    }

    /// Replaces each part as long as a digest by the digest of its number and itself, cut to the part's
    /// length.
    private static func diffuse(_ block: inout MutableRawSpan, _ hash: HashAlgorithm) throws(BlockError) {
        let size = block.byteCount
        var offset = 0
        var number: UInt32 = 0
        while offset < size {
            let end = min(offset + hash.digestBytes, size)
            let counter = withUnsafeBytes(of: number.bigEndian) { Array($0) }
            let digest = try KeyMaterial(count: hash.digestBytes) { digest throws(BlockError) in
                try LibCrypto.hash(
                    hash, counter.span.bytes, block.bytes.extracting(offset..<end), into: &digest)
            }
            block.copy(from: digest.bytes.extracting(0..<end - offset), at: offset)
            offset = end
            number += 1
        }
    }

    /// Exclusive or; keys are of whole 64-bit words.
    private static func combine(_ block: inout MutableRawSpan, _ other: RawSpan) {
        for offset in stride(from: 0, to: block.byteCount, by: 8) {
            let mine: UInt64 = block.bytes.littleEndian(at: offset) ?? 0
            let theirs: UInt64 = other.littleEndian(at: offset) ?? 0
            block.storeLittleEndian(mine ^ theirs, at: offset)
        }
    }
}
