import BlockCore
import CCrypto
import Synchronization

/// Hashes, key derivation and random bytes of OpenSSL's libcrypto. Thread-safe.
enum LibCrypto {
    /// Initialises the library once, without reading the system's configuration file.
    private static let isReady: Bool = OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_LOAD_CONFIG), nil) == 1

    static func failure(_ what: String) -> BlockError { BlockError(.io, "\(what) failed in libcrypto") }

    /// - Throws: `io` when the library cannot be initialised.
    static func prepare() throws(BlockError) {
        guard isReady else { throw failure("Starting") }
    }

    /// Fills `bytes` from the system's random source.
    static func randomise(_ bytes: inout MutableRawSpan) throws(BlockError) {
        try prepare()
        let code = bytes.withUnsafeMutableBytes { buffer in
            platter_random(buffer.baseAddress, Int32(truncatingIfNeeded: buffer.count))
        }
        guard code == 1 else { throw failure("Getting random bytes") }
    }

    /// `count` random bytes.
    static func randomBytes(_ count: Int) throws(BlockError) -> [UInt8] {
        try [UInt8](zeroed: count) { (bytes) throws(BlockError) in try randomise(&bytes) }
    }

    /// Stores the digest of the concatenated parts in `digest`, which must be as long as the hash's digests.
    static func hash(
        _ algorithm: HashAlgorithm, _ first: RawSpan, _ second: RawSpan, into digest: inout MutableRawSpan
    ) throws(BlockError) {
        try prepare()
        guard digest.byteCount == algorithm.digestBytes, let context = EVP_MD_CTX_new() else {
            throw failure("Hashing")
        }
        defer { EVP_MD_CTX_free(context) }
        var isDone = EVP_DigestInit_ex(context, implementation(algorithm), nil) == 1
        isDone = isDone && first.withUnsafeBytes { EVP_DigestUpdate(context, $0.baseAddress, $0.count) } == 1
        isDone = isDone && second.withUnsafeBytes { EVP_DigestUpdate(context, $0.baseAddress, $0.count) } == 1
        let code = digest.withUnsafeMutableBytes { platter_digest_final(context, $0.baseAddress) }
        guard isDone, code == 1 else { throw failure("Hashing") }
    }

    /// The MD5 of `bytes`, 16 bytes: a checksum that a format requires, not a protection.
    static func md5(_ bytes: RawSpan) throws(BlockError) -> [UInt8] {
        try prepare()
        guard let context = EVP_MD_CTX_new() else { throw failure("Hashing") }
        defer { EVP_MD_CTX_free(context) }
        var digest = [UInt8](repeating: 0, count: 16)
        var isDone = EVP_DigestInit_ex(context, EVP_md5(), nil) == 1
        isDone = isDone && bytes.withUnsafeBytes { EVP_DigestUpdate(context, $0.baseAddress, $0.count) } == 1
        let code = digest.withUnsafeMutableBytes { platter_digest_final(context, $0.baseAddress) }
        guard isDone, code == 1 else { throw failure("Hashing") }
        return digest
    }

    /// PBKDF2 (RFC 8018) with HMAC: fills `key`.
    static func deriveKey(
        from password: RawSpan, salt: RawSpan, iterations: Int, _ hash: HashAlgorithm,
        into key: inout MutableRawSpan
    ) throws(BlockError) {
        try prepare()
        guard let count = Int32(exactly: iterations), count > 0 else {
            throw BlockError(.limit, "\(iterations) iterations of key derivation are out of range")
        }
        let code = key.withUnsafeMutableBytes { target in
            password.withUnsafeBytes { secret in
                salt.withUnsafeBytes { salt in
                    platter_pbkdf2(
                        secret.baseAddress, Int32(truncatingIfNeeded: secret.count), salt.baseAddress,
                        Int32(truncatingIfNeeded: salt.count), count, implementation(hash),
                        target.baseAddress, Int32(truncatingIfNeeded: target.count))
                }
            }
        }
        guard code == 1 else { throw failure("Key derivation") }
    }

    /// Whether both spans hold the same bytes. The time does not depend on where they differ.
    static func areEqual(_ left: RawSpan, _ right: RawSpan) -> Bool {
        guard left.byteCount == right.byteCount else { return false }
        return left.withUnsafeBytes { one in
            right.withUnsafeBytes { other in CRYPTO_memcmp(one.baseAddress, other.baseAddress, one.count) }
        } == 0
    }

    private static func implementation(_ algorithm: HashAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .sha1: EVP_sha1()
        case .sha224: EVP_sha224()
        case .sha256: EVP_sha256()
        case .sha384: EVP_sha384()
        case .sha512: EVP_sha512()
        }
    }
}

/// One key in one mode and direction, with one of libcrypto's contexts for each thread that used it at the
/// same time.
///
/// Thread-safe. The contexts hold the expanded key; they are wiped and freed with this object.
final class CipherContexts: Sendable {
    enum Mode {
        case ecb
        case cbc
        case xts
    }

    /// A C pointer on its way through the lock.
    private struct Context: @unchecked Sendable {
        let pointer: OpaquePointer
    }

    static let blockBytes = 16

    private let algorithm: CipherAlgorithm
    private let mode: Mode
    private let key: KeyMaterial
    private let encrypts: Bool
    private let idle = Mutex<[Context]>([])

    /// - Throws: `invalidArgument` for a key of the wrong length.
    init(
        _ algorithm: CipherAlgorithm, _ mode: Mode, key: KeyMaterial, encrypts: Bool
    ) throws(BlockError) {
        self.algorithm = algorithm
        self.mode = mode
        self.key = key
        self.encrypts = encrypts
        guard key.count == algorithm.keyBytes * (mode == .xts ? 2 : 1) else {
            throw BlockError(
                .invalidArgument, "The key has \(key.count) bytes, which \(algorithm.rawValue) does not take")
        }
        try LibCrypto.prepare()
        let first = try makeContext()
        idle.withLock { $0.append(first) }
    }

    deinit {
        for context in idle.withLock({ $0 }) { EVP_CIPHER_CTX_free(context.pointer) }
    }

    /// Processes the sectors of `source`, each with its 16 bytes of `vectors`, into `target`.
    func process(
        _ source: RawSpan, into target: inout MutableRawSpan, vectors: RawSpan, sectorBytes: Int
    ) throws(BlockError) {
        guard target.byteCount == source.byteCount else { throw LibCrypto.failure("A cipher") }
        let isDone = try withContext { context in
            target.withUnsafeMutableBytes { output in
                source.withUnsafeBytes { input in
                    vectors.withUnsafeBytes { vectors in
                        Self.run(context, input, output, vectors, sectorBytes)
                    }
                }
            }
        }
        guard isDone else { throw LibCrypto.failure("A cipher") }
    }

    /// As above, in place.
    func process(
        _ bytes: inout MutableRawSpan, vectors: RawSpan, sectorBytes: Int
    ) throws(BlockError) {
        let isDone = try withContext { context in
            bytes.withUnsafeMutableBytes { buffer in
                vectors.withUnsafeBytes { vectors in
                    Self.run(context, UnsafeRawBufferPointer(buffer), buffer, vectors, sectorBytes)
                }
            }
        }
        guard isDone else { throw LibCrypto.failure("A cipher") }
    }

    private static func run(
        _ context: OpaquePointer, _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer,
        _ vectors: UnsafeRawBufferPointer, _ sectorBytes: Int
    ) -> Bool {
        guard input.count > 0 else { return true }
        guard let source = input.baseAddress, let target = output.baseAddress else { return false }
        var offset = 0
        var sector = 0
        while offset < input.count {
            let count = min(sectorBytes, input.count - offset)
            if vectors.count > 0 {
                let start = sector * blockBytes
                guard start + blockBytes <= vectors.count, let base = vectors.baseAddress else {
                    return false
                }
                guard platter_cipher_vector(context, base + start) == 1 else { return false }
            }
            guard platter_cipher(context, target + offset, source + offset, Int32(count)) == 1 else {
                return false
            }
            offset += count
            sector += 1
        }
        return true
    }

    private func withContext(_ body: (OpaquePointer) -> Bool) throws(BlockError) -> Bool {
        let pooled = idle.withLock { $0.popLast() }
        let context = if let pooled { pooled } else { try makeContext() }
        defer { idle.withLock { $0.append(context) } }
        return body(context.pointer)
    }

    private func makeContext() throws(BlockError) -> Context {
        guard let pointer = EVP_CIPHER_CTX_new() else { throw BlockError(.limit, "No memory for a cipher") }
        let (key, cipher, direction) = (self.key, implementation, encrypts ? Int32(1) : 0)
        let code = key.bytes.withUnsafeBytes { bytes in
            platter_cipher_key(pointer, cipher, bytes.baseAddress, direction)
        }
        guard code == 1 else {
            EVP_CIPHER_CTX_free(pointer)
            throw LibCrypto.failure("Setting a key")
        }
        return Context(pointer: pointer)
    }

    private var implementation: OpaquePointer? {
        switch (algorithm, mode) {
        case (.aes128, .ecb): EVP_aes_128_ecb()
        case (.aes192, .ecb): EVP_aes_192_ecb()
        case (.aes256, .ecb): EVP_aes_256_ecb()
        case (.aes128, .cbc): EVP_aes_128_cbc()
        case (.aes192, .cbc): EVP_aes_192_cbc()
        case (.aes256, .cbc): EVP_aes_256_cbc()
        case (.aes128, .xts): EVP_aes_128_xts()
        case (.aes256, .xts): EVP_aes_256_xts()
        case (.aes192, .xts): nil
        }
    }
}
