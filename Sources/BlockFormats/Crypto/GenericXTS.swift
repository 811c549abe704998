import BlockCore

/// XTS (IEEE 1619) over the plain block cipher, for AES-192, for which libcrypto has no XTS.
///
/// Thread-safe.
final class GenericXTS: SectorContexts {
    private let tweaks: CipherContexts
    private let blocks: CipherContexts

    /// - Parameter key: two keys of the cipher, the second for the tweaks.
    init(_ algorithm: CipherAlgorithm, key: KeyMaterial, encrypts: Bool) throws(BlockError) {
        guard key.count == 2 * algorithm.keyBytes else { throw LibCrypto.failure("Setting a key") }
        let half = algorithm.keyBytes
        blocks = try CipherContexts(
            algorithm, .ecb, key: KeyMaterial(key.bytes.extracting(0..<half)), encrypts: encrypts)
        tweaks = try CipherContexts(
            algorithm, .ecb, key: KeyMaterial(key.bytes.extracting(half..<2 * half)), encrypts: true)
    }

    func process(_ source: RawSpan, into target: inout MutableRawSpan, vectors: RawSpan) throws(BlockError) {
        target.copy(from: source)
        try process(&target, vectors: vectors)
    }

    func process(_ bytes: inout MutableRawSpan, vectors: RawSpan) throws(BlockError) {
        let count = bytes.byteCount
        let mask = AlignedBuffer(count: count)
        var masks = mask.mutableBytes
        try fill(&masks, vectors)
        Self.combine(&bytes, masks.bytes)
        try blocks.process(&bytes, vectors: RawSpan(), sectorBytes: count)
        Self.combine(&bytes, masks.bytes)
    }

    /// Computes the tweak of every block: first the encrypted vector, then the previous tweak times x in
    /// GF(2^128).
    private func fill(_ masks: inout MutableRawSpan, _ vectors: RawSpan) throws(BlockError) {
        let sectors = masks.byteCount / SectorCipher.sectorBytes
        var first = [UInt8](repeating: 0, count: sectors * CipherContexts.blockBytes)
        var elements = first.mutableSpan
        var span = elements.mutableBytes
        span.copy(from: vectors.extracting(0..<sectors * CipherContexts.blockBytes))
        try tweaks.process(&span, vectors: RawSpan(), sectorBytes: sectors * CipherContexts.blockBytes)
        for sector in 0..<sectors {
            var low: UInt64 = span.bytes.littleEndian(at: sector * CipherContexts.blockBytes) ?? 0
            var high: UInt64 = span.bytes.littleEndian(at: sector * CipherContexts.blockBytes + 8) ?? 0
            let start = sector * SectorCipher.sectorBytes
            for offset in stride(from: start, to: start + SectorCipher.sectorBytes, by: 16) {
                masks.storeLittleEndian(low, at: offset)
                masks.storeLittleEndian(high, at: offset + 8)
                let carry = high >> 63
                high = high << 1 | low >> 63
                low = low << 1 ^ carry * 0x87
            }
        }
    }

    private static func combine(_ bytes: inout MutableRawSpan, _ masks: RawSpan) {
        for offset in stride(from: 0, to: bytes.byteCount, by: 8) {
            let value: UInt64 = bytes.bytes.littleEndian(at: offset) ?? 0
            let mask: UInt64 = masks.littleEndian(at: offset) ?? 0
            bytes.storeLittleEndian(value ^ mask, at: offset)
        }
    }
}
