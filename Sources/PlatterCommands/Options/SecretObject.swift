import BlockCore
import BlockFormats
import BlockProtocols

/// `--object secret,id=ID,data=TEXT` or `file=NAME`: a key or password that options of encrypted images name.
enum SecretObject {
    static let name = "secret"

    /// The bytes of a secret.
    ///
    /// - Parameter keys: the earlier secrets, one of which may decrypt this one.
    /// - Throws: `invalidArgument`; errors of reading the file, and of decrypting it.
    static func make(
        _ options: inout OptionTree, keys: SecretSource
    ) throws(BlockError) -> KeyMaterial {
        let isBase64 = try isBase64(options.take("format"))
        let data = options.take("data")
        let file = options.take("file")
        let keyID = options.take("keyid")
        let vector = options.take("iv")
        if data != nil, file != nil {
            throw BlockError(.invalidArgument, "'file' and 'data' are mutually exclusive")
        }
        var bytes: [UInt8]
        if let file {
            bytes = try HostPath.contents(of: file, limit: maximumBytes)
        } else if let data {
            bytes = data.rawBytes
        } else {
            throw BlockError(.invalidArgument, "Either 'file' or 'data' must be provided")
        }
        defer { wipe(&bytes) }
        if let keyID {
            let key = try keys.secret(keyID)
            return try decrypted(bytes, isBase64: isBase64, key: key, vector: vector)
        }
        if vector != nil { throw BlockError(.invalidArgument, "Parameter 'iv' needs 'keyid'") }
        guard isBase64 else { return KeyMaterial(bytes.span.bytes) }
        var plain = try Base64.decode(bytes)
        defer { wipe(&plain) }
        return KeyMaterial(plain.span.bytes)
    }

    private static let maximumBytes = Int.mib(1)

    private static func isBase64(_ format: String?) throws(BlockError) -> Bool {
        switch format {
        case nil, "raw": return false
        case "base64": return true
        case let other?:
            throw BlockError(.invalidArgument, "Parameter 'format' does not accept value '\(other)'")
        }
    }

    private static func decrypted(
        _ bytes: [UInt8], isBase64: Bool, key: KeyMaterial, vector: String?
    ) throws(BlockError) -> KeyMaterial {
        guard let vector else {
            throw BlockError(.invalidArgument, "IV is required to decrypt secret")
        }
        let ciphertext = isBase64 ? try Base64.decode(bytes) : bytes
        return try EncryptedSecret.decrypt(
            ciphertext, key: key, vector: try Base64.decode(Array(vector.utf8)))
    }

    private static func wipe(_ bytes: inout [UInt8]) {
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        KeyMaterial.wipe(&span)
    }
}
