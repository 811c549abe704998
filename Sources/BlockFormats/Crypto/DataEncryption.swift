import BlockCore

/// The encryption of an image's data, sector by sector.
struct DataEncryption: Sendable {
    let store: EncryptedStore
    /// Whether sectors are numbered by their guest offset instead of their offset in the file.
    let numbersByGuest: Bool

    /// The name of the old encryption in `encrypt.format`.
    static let aesName = "aes"

    /// The old encryption: AES-128-CBC with the password as its key, cut or padded with zeroes. Sectors are
    /// numbered by guest offset.
    static func aes(password: KeyMaterial) throws(BlockError) -> DataEncryption {
        let suite = CipherSuite(algorithm: .aes128, mode: .cbc, ivGenerator: .plain64)
        let key = KeyMaterial(count: suite.keyBytes) { key in
            key.copy(from: password.bytes.extracting(0..<min(password.count, suite.keyBytes)))
        }
        return DataEncryption(store: EncryptedStore(try SectorCipher(suite, key: key)), numbersByGuest: true)
    }

    /// LUKS encryption. Sectors are numbered by their offset in the file.
    static func luks(_ volume: LuksVolume, key: KeyMaterial) throws(BlockError) -> DataEncryption {
        DataEncryption(
            store: EncryptedStore(try SectorCipher(volume.header.suite, key: key)), numbersByGuest: false)
    }
}

/// The options `encrypt.…` for opening an image.
struct EncryptionChoice {
    private let format: String?
    private let secret: String?

    /// Takes the options out of `options`.
    ///
    /// - Throws: `invalidArgument` for an unknown option.
    init(taking options: inout OptionTree) throws(BlockError) {
        var own = options.takeSubtree("encrypt")
        format = own.take("format")
        secret = own.take("key-secret")
        if let unknown = own.keys.first {
            throw BlockError(.invalidArgument, "Parameter '\(unknown)' is unexpected")
        }
    }

    /// - Parameter stated: the encryption in the image's header; `nil` for none.
    /// - Throws: `invalidArgument` when the options name another one.
    func check(against stated: String?) throws(BlockError) {
        guard let format, format != stated else { return }
        guard let stated else {
            throw BlockError(
                .invalidArgument, "No encryption in image header, but options specified format '\(format)'")
        }
        throw BlockError(
            .invalidArgument,
            "Header reported '\(stated)' encryption format but options specify '\(format)'")
    }

    /// - Throws: `invalidArgument` when the options name no secret; `notFound`.
    func password(_ secrets: SecretSource) throws(BlockError) -> KeyMaterial {
        guard let secret else {
            throw BlockError(.invalidArgument, "Parameter 'encrypt.key-secret' is required for cipher")
        }
        return try secrets.secret(secret)
    }

    /// The encryption format in create options, also by the old option `encryption`.
    static func format(_ options: CreateOptions) throws(BlockError) -> String? {
        let format = options[.encryptFormat]
        guard options.flag(.encryption) else { return format }
        guard format == nil else {
            throw BlockError(
                .invalidArgument,
                "'encrypt.format' and its alias 'encryption' can't be used at the same time")
        }
        return DataEncryption.aesName
    }
}
