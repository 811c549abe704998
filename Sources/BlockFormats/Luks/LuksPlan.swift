import BlockCore

/// The plan of a new LUKS volume, from validated create options.
struct LuksPlan: Sendable {
    var suite: CipherSuite
    var hash: HashAlgorithm
    /// The hash in the vector generator's name, if one was given.
    var vectorHash: HashAlgorithm?
    var iterationMilliseconds: Int

    /// The names of the options: plain for `luks`, with the prefix `encrypt.` for `qcow2`.
    struct Keys: Sendable {
        var cipher: CreateOptionKey
        var mode: CreateOptionKey
        var vectors: CreateOptionKey
        var vectorHash: CreateOptionKey
        var hash: CreateOptionKey
        var time: CreateOptionKey

        static let plain = Keys(
            cipher: .cipherAlg, mode: .cipherMode, vectors: .ivgenAlg, vectorHash: .ivgenHashAlg,
            hash: .hashAlg, time: .iterTime)
        static let nested = Keys(
            cipher: .encryptCipherAlg, mode: .encryptCipherMode, vectors: .encryptIvgenAlg,
            vectorHash: .encryptIvgenHashAlg, hash: .encryptHashAlg, time: .encryptIterTime)

        var all: [CreateOptionKey] { [cipher, mode, vectors, vectorHash, hash, time] }
    }

    static let defaultMilliseconds = 2000
    private static let maximumMilliseconds = 1 << 31

    /// - Throws: `invalidArgument` or `unsupported`, naming the option.
    init(_ options: CreateOptions, _ keys: Keys) throws(BlockError) {
        let algorithm = try Self.value(options, keys.cipher, "cipher-alg") ?? CipherAlgorithm.aes256
        let mode = try Self.value(options, keys.mode, "cipher-mode") ?? CipherMode.xts
        hash = try Self.value(options, keys.hash, "hash-alg") ?? .sha256
        vectorHash = try Self.value(options, keys.vectorHash, "ivgen-hash-alg")
        let generator: IVGenerator
        switch options[keys.vectors] {
        case nil, "plain64": generator = .plain64
        case "plain": generator = .plain
        case "essiv": generator = .essiv(vectorHash ?? .sha256)
        case let other?: throw Self.refused("ivgen-alg", other)
        }
        suite = CipherSuite(algorithm: algorithm, mode: mode, ivGenerator: generator)
        _ = try suite.essivAlgorithm
        iterationMilliseconds = options.integer(keys.time) ?? Self.defaultMilliseconds
        guard iterationMilliseconds <= Self.maximumMilliseconds else {
            throw BlockError(.invalidArgument, "Parameter 'iter-time' is too large")
        }
    }

    private static func value<Value: RawRepresentable<String>>(
        _ options: CreateOptions, _ key: CreateOptionKey, _ name: String
    ) throws(BlockError) -> Value? {
        guard let text = options[key] else { return nil }
        guard let value = Value(rawValue: text) else { throw refused(name, text) }
        return value
    }

    private static func refused(_ name: String, _ value: String) -> BlockError {
        BlockError(.invalidArgument, "Parameter '\(name)' does not accept value '\(value)'")
    }
}
