import BlockCore
import BlockFormats
import BlockProtocols

/// The objects of `--object`: secrets, in the order given.
struct SecretObjects {
    private var secrets: [String: KeyMaterial] = [:]

    /// The secrets, for drivers to look up by name.
    var source: SecretSource { SecretSource(secrets) }

    /// Makes the objects of these definitions.
    ///
    /// - Throws: `invalidArgument`, `unsupported` or `exists` for an object that is malformed, is no secret,
    ///   or
    ///   exists already; what reading its file, or decrypting it, fails with.
    init(_ definitions: [String]) throws(BlockError) {
        for definition in definitions { try add(definition) }
    }

    /// Makes the object of one definition: `secret,id=ID,...` or JSON.
    private mutating func add(_ text: String) throws(BlockError) {
        var options = try Self.parse(text)
        guard let kind = options.take("qom-type") else { throw Self.missing("qom-type") }
        guard kind == "secret" else {
            throw BlockError(.unsupported, "invalid object type: \(kind) (there are only secrets here)")
        }
        guard let id = options.take("id") else { throw Self.missing("id") }
        guard Self.isIdentifier(id) else {
            throw BlockError(
                .invalidArgument, "Parameter 'id' expects an identifier",
                hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
        }
        guard secrets[id] == nil else {
            throw BlockError(
                .exists, "attempt to add duplicate property '\(id)' to object (type 'container')")
        }
        secrets[id] = try secret(&options)
        if let unknown = options.keys.first {
            throw BlockError(.invalidArgument, "Parameter '\(unknown)' is unexpected")
        }
    }

    private static func parse(_ text: String) throws(BlockError) -> OptionTree {
        if text.hasPrefix("{") { return try JSONReader.options(text) }
        var options = OptionTree()
        for (index, pair) in try OptionList.parse(text).enumerated() {
            // The first word may be the type alone; like any key without a value, its value is "on" then.
            if index == 0, text.prefix(while: { $0 != "," }) == pair.key {
                options["qom-type"] = pair.key
            } else {
                options[pair.key] = pair.value
            }
        }
        return options
    }

    private static func missing(_ name: String) -> BlockError {
        BlockError(.invalidArgument, "Parameter '\(name)' is missing")
    }

    private static func isIdentifier(_ text: String) -> Bool {
        guard let first = text.first, first.isASCII, first.isLetter else { return false }
        return text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-._".contains($0)) }
    }

    // MARK: The secret

    private func secret(_ options: inout OptionTree) throws(BlockError) -> KeyMaterial {
        let isBase64 = try Self.isBase64(options.take("format"))
        let data = options.take("data")
        let file = options.take("file")
        let keyID = options.take("keyid")
        let vector = options.take("iv")
        if data != nil, file != nil {
            throw BlockError(.invalidArgument, "'file' and 'data' are mutually exclusive")
        }
        var bytes: [UInt8]
        if let file {
            bytes = try HostPath.contents(of: file, limit: Self.maximumBytes)
        } else if let data {
            bytes = data.rawBytes
        } else {
            throw BlockError(.invalidArgument, "Either 'file' or 'data' must be provided")
        }
        defer { Self.wipe(&bytes) }
        if let keyID { return try decrypted(bytes, isBase64: isBase64, keyID: keyID, vector: vector) }
        if vector != nil { throw BlockError(.invalidArgument, "Parameter 'iv' needs 'keyid'") }
        guard isBase64 else { return KeyMaterial(bytes.span.bytes) }
        var plain = try Base64.decode(bytes)
        defer { Self.wipe(&plain) }
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

    private func decrypted(
        _ bytes: [UInt8], isBase64: Bool, keyID: String, vector: String?
    ) throws(BlockError) -> KeyMaterial {
        let key = try source.secret(keyID)
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
