import BlockCore

/// Hashes. The raw value is the name in QEMU's options and LUKS headers.
enum HashAlgorithm: String, Sendable, CaseIterable {
    case sha1
    case sha224
    case sha256
    case sha384
    case sha512

    var digestBytes: Int {
        switch self {
        case .sha1: 20
        case .sha224: 28
        case .sha256: 32
        case .sha384: 48
        case .sha512: 64
        }
    }
}

/// Block ciphers. The raw value is QEMU's name.
enum CipherAlgorithm: String, Sendable, CaseIterable {
    case aes128 = "aes-128"
    case aes192 = "aes-192"
    case aes256 = "aes-256"

    /// The key's length in bytes; XTS needs two keys.
    var keyBytes: Int {
        switch self {
        case .aes128: 16
        case .aes192: 24
        case .aes256: 32
        }
    }
}

/// Modes of operation. The raw value is QEMU's and LUKS's name.
enum CipherMode: String, Sendable, CaseIterable {
    case cbc
    case xts

    /// The number of cipher keys in a key of the mode.
    var keyCount: Int { self == .xts ? 2 : 1 }
}

/// The generators of a sector's initialisation vector from its number.
enum IVGenerator: Sendable, Equatable {
    /// The low 32 bits of the number, little-endian.
    case plain
    /// All 64 bits of the number, little-endian.
    case plain64
    /// All 64 bits, encrypted with the hash of the key.
    case essiv(HashAlgorithm)

    /// QEMU's name, without the hash.
    var name: String {
        switch self {
        case .plain: "plain"
        case .plain64: "plain64"
        case .essiv: "essiv"
        }
    }

    var hash: HashAlgorithm? {
        if case .essiv(let hash) = self { return hash }
        return nil
    }
}

/// The cipher, mode and vector generator of sectors.
struct CipherSuite: Sendable, Equatable {
    var algorithm: CipherAlgorithm
    var mode: CipherMode
    var ivGenerator: IVGenerator

    var keyBytes: Int { algorithm.keyBytes * mode.keyCount }

    /// The cipher that encrypts sector numbers: the one whose key is as long as the hash's digest; `nil` for
    /// other generators than ESSIV.
    ///
    /// - Throws: `unsupported` when no cipher has such a key.
    var essivAlgorithm: CipherAlgorithm? {
        get throws(BlockError) {
            guard let hash = ivGenerator.hash else { return nil }
            guard let match = CipherAlgorithm.allCases.first(where: { $0.keyBytes == hash.digestBytes })
            else {
                throw BlockError(.unsupported, "No AES cipher with key size \(hash.digestBytes) available")
            }
            return match
        }
    }
}
