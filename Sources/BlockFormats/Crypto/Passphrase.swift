import BlockCore

extension SecretSource {
    /// The secret of that id, restricted to passphrases that QEMU accepts too, so that both programs open the
    /// image.
    ///
    /// - Throws: `invalidArgument` for bytes that are not text; `notFound`.
    func passphrase(_ id: String) throws(BlockError) -> KeyMaterial {
        let secret = try secret(id)
        guard secret.bytes.isText else {
            throw BlockError(.invalidArgument, "Data from secret \(id) is not valid UTF-8")
        }
        return secret
    }
}

extension RawSpan {
    /// Whether this is UTF-8 without a zero. Unlike a `String`, it leaves no copy in memory.
    var isText: Bool {
        var position = 0
        while position < byteCount {
            guard let size = characterSize(at: position) else { return false }
            position += size
        }
        return true
    }

    /// The length of the character at `position` in bytes; `nil` when it is invalid (RFC 3629, section 4).
    private func characterSize(at position: Int) -> Int? {
        let lead: UInt8 = bigEndian(at: position) ?? 0
        let second: ClosedRange<UInt8>
        let size: Int
        switch lead {
        case 0x01...0x7f: return 1
        case 0xc2...0xdf: (size, second) = (2, 0x80...0xbf)
        case 0xe0: (size, second) = (3, 0xa0...0xbf)
        case 0xed: (size, second) = (3, 0x80...0x9f)
        case 0xe1...0xef: (size, second) = (3, 0x80...0xbf)
        case 0xf0: (size, second) = (4, 0x90...0xbf)
        case 0xf1...0xf3: (size, second) = (4, 0x80...0xbf)
        case 0xf4: (size, second) = (4, 0x80...0x8f)
        default: return nil
        }
        for index in 1..<size {
            guard let byte: UInt8 = bigEndian(at: position + index),
                (index == 1 ? second : 0x80...0xbf).contains(byte)
            else { return nil }
        }
        return size
    }
}
