import BlockCore

extension Qcow2Driver.Plan {
    /// The encryption of a new image.
    struct Encryption: Sendable {
        /// The LUKS header; `nil` for the old method, with the password as the key.
        var luks: LuksPlan?
        var secret: String

        var method: Qcow2Encryption.Method { luks == nil ? .aes : .luks }
        /// The size of the LUKS header with its key material, in bytes.
        var areaBytes: Int { luks.map { Luks.areaBytes(keyBytes: $0.suite.keyBytes) } ?? 0 }
    }

    /// - Throws: `invalidArgument` or `unsupported`, naming the option.
    static func encryption(_ options: CreateOptions) throws(BlockError) -> Encryption? {
        let format = try EncryptionChoice.format(options)
        let details = LuksPlan.Keys.nested.all.filter { options[$0] != nil }
        guard let format else {
            guard details.isEmpty, options[.encryptKeySecret] == nil else {
                throw refusal("Parameter 'encrypt.format' is missing")
            }
            return nil
        }
        guard format == "luks" || format == "aes" else {
            throw refusal("Parameter 'format' does not accept value '\(format)'")
        }
        if format == "aes", let detail = details.first {
            throw refusal("Parameter '\(detail.rawValue)' is unexpected")
        }
        let luks = format == "luks" ? try LuksPlan(options, .nested) : nil
        guard let secret = options[.encryptKeySecret] else {
            throw refusal("Parameter 'encrypt.key-secret' is required for cipher")
        }
        return Encryption(luks: luks, secret: secret)
    }

    private static func refusal(_ message: String) -> BlockError { BlockError(.invalidArgument, message) }

    /// The number of clusters of the LUKS header.
    var luksClusters: Int { layout.clusters(encryption?.areaBytes ?? 0) }

    /// Places the LUKS header, if the plan has one, in the whole clusters before `end`.
    mutating func placeLuksHeader(end: Int) {
        guard let encryption, encryption.luks != nil else { return }
        let start = end - luksClusters << layout.clusterBits
        header.extensions.removeAll { $0.type == Qcow2.ExtensionType.encryption }
        header.addLuksExtension(start..<start + encryption.areaBytes)
    }

    /// Writes the LUKS header, if the plan has one, to its place. Returns the cipher for the data.
    func makeKeys(
        _ file: BlockNode, _ context: CreateContext
    ) throws(BlockError) -> DataEncryption? {
        guard let encryption else { return nil }
        let password = try context.secrets.secret(encryption.secret)
        guard let luks = encryption.luks, let range = header.luksRange else {
            return try .aes(password: password)
        }
        let end = range.lowerBound + luksClusters << layout.clusterBits
        if try file.length() < end { try file.resize(to: end) }
        let area = LuksArea(node: file, base: range.lowerBound, length: range.count)
        let (volume, key) = try LuksVolume.create(
            luks, passphrase: password, payloadOffset: range.count, in: area)
        return try .luks(volume, key: key)
    }
}
