import BlockCore

/// Decrypts secrets that are encrypted with another one: AES-256-CBC, padded to whole blocks (PKCS #7).
///
/// Thread-safe.
public enum EncryptedSecret {
    private static let keyBytes = 32
    private static let blockBytes = 16

    /// Decrypts a secret.
    ///
    /// - Parameters:
    ///   - key: 32 bytes.
    ///   - vector: the initialisation vector, 16 bytes.
    /// - Throws: `invalidArgument` for wrong lengths and padding; `io`, `limit` for a failure of libcrypto.
    public static func decrypt(
        _ ciphertext: [UInt8], key: KeyMaterial, vector: [UInt8]
    ) throws(BlockError) -> KeyMaterial {
        guard vector.count == blockBytes else {
            throw BlockError(
                .invalidArgument, "IV should be \(blockBytes) bytes in length not \(vector.count)")
        }
        guard key.count == keyBytes else {
            throw BlockError(.invalidArgument, "Key should be \(keyBytes) bytes in length")
        }
        guard ciphertext.count % blockBytes == 0, !ciphertext.isEmpty else {
            throw BlockError(
                .invalidArgument,
                "Length \(ciphertext.count) must be a multiple of block size \(blockBytes)")
        }
        let cipher = try CipherContexts(.aes256, .cbc, key: key, encrypts: false)
        let padded = try KeyMaterial(count: ciphertext.count) { plain throws(BlockError) in
            try cipher.process(
                ciphertext.span.bytes, into: &plain, vectors: vector.span.bytes,
                sectorBytes: ciphertext.count)
        }
        let padding = Int(padded.bytes.bigEndian(UInt8.self, at: padded.count - 1) ?? 0)
        guard padding <= blockBytes, padding <= padded.count else {
            throw BlockError(
                .invalidArgument,
                "Incorrect number of padding bytes (\(padding)) found on decrypted data")
        }
        return KeyMaterial(padded.bytes.extracting(0..<padded.count - padding))
    }
}
