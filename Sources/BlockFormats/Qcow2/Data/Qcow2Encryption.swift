import BlockCore
import Synchronization

/// The values of the header field `crypt_method`.
enum Qcow2Encryption {
    enum Method: UInt32 {
        case none = 0
        /// ``DataEncryption/aes(password:)``.
        case aes = 1
        /// A LUKS header in clusters of its own.
        case luks = 2

        var name: String { self == .aes ? DataEncryption.aesName : "luks" }
    }
}

/// An image's encryption, once its options and secret are known.
struct Qcow2Unlocked {
    /// The LUKS header, where the image has one.
    var volume: LuksVolume?
    /// The cipher for the data; `nil` without encryption, or where only metadata is read.
    var encryption: DataEncryption?

    /// Takes `encrypt.…` out of the options, and unlocks the image with the secret that they name.
    ///
    /// - Throws: `invalidArgument`, `notFound` for the secret, `denied` for a wrong one, `corrupt`.
    init(_ header: Qcow2Header, _ request: OpenRequest, _ options: inout OptionTree) throws(BlockError) {
        let named = try EncryptionChoice(taking: &options)
        let method = Qcow2Encryption.Method(rawValue: header.cryptMethod) ?? .none
        try named.check(against: method == .none ? nil : method.name)
        if method == .none { return }
        if method == .luks { volume = try LuksVolume(reading: try header.luksArea(in: request.file)) }
        if request.settings.metadataOnly || request.settings.withoutKeys { return }
        let password = try named.password(request.secrets)
        if let volume {
            encryption = try .luks(volume, key: try volume.unlock(password))
        } else {
            encryption = try .aes(password: password)
        }
    }
}

extension Qcow2Header {
    var isEncrypted: Bool { cryptMethod != 0 }

    /// The bytes of the LUKS header in the image's file; `nil` where there is none.
    var luksRange: Range<Int>? {
        guard let data = extensionData(Qcow2.ExtensionType.encryption) else { return nil }
        let bytes = data.span.bytes
        guard let offset = Int(exactly: bytes.bigEndian(UInt64.self, at: 0) ?? .max),
            let length = Int(exactly: bytes.bigEndian(UInt64.self, at: 8) ?? .max)
        else { return nil }
        let (end, overflow) = offset.addingReportingOverflow(length)
        return overflow ? nil : offset..<end
    }

    /// - Throws: `corrupt` when the image has no extension for its LUKS header, or one with an impossible
    ///   place.
    func luksArea(in file: BlockNode) throws(BlockError) -> LuksArea {
        guard let range = luksRange else {
            throw BlockError(.corrupt, "The image has no valid encryption header extension")
        }
        let sizes = Luks.headerBytes...Qcow2.Limit.luksHeaderBytes
        guard layout.isAligned(range.lowerBound), range.lowerBound > 0, sizes.contains(range.count),
            range.upperBound <= (try file.length())
        else { throw BlockError(.corrupt, "Encryption header offset or size is invalid") }
        return LuksArea(node: file, base: range.lowerBound, length: range.count)
    }

    /// Adds the extension with the place of the LUKS header.
    mutating func addLuksExtension(_ range: Range<Int>) {
        let data = [UInt8](zeroed: 16) { bytes in
            bytes.storeBigEndian(UInt64(range.lowerBound), at: 0)
            bytes.storeBigEndian(UInt64(range.count), at: 8)
        }
        extensions.insert(Extension(type: Qcow2.ExtensionType.encryption, data: data), at: 0)
    }
}

extension Qcow2Driver {
    /// The change of key slots that an amendment asks for, checked; `nil` for none.
    func slotChange(_ amendment: Amendment) throws(BlockError) -> LuksSlotChange.Action? {
        let keys = LuksSlotChange.Keys.nested.declared.map(\.key)
        guard keys.contains(where: { amendment.options[$0] != nil }) else { return nil }
        let change = try LuksSlotChange(amendment, .nested)
        return try luks.withLock { volume throws(BlockError) in
            guard let volume else {
                throw BlockError(.unsupported, "Only LUKS encryption options can be amended")
            }
            return try change.action(on: volume)
        }
    }

    func apply(_ action: LuksSlotChange.Action) throws(BlockError) {
        guard let key = data.encryption?.store.cipher.key else {
            throw BlockError(.denied, "The image was opened without its key", path: file.filename)
        }
        try luks.withLock { volume throws(BlockError) in try volume?.apply(action, key: key) }
    }
}
