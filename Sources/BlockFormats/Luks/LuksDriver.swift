import BlockCore
import Synchronization

/// A raw LUKS1 volume: a header with key slots, and behind it, or in another file, the encrypted disk.
///
/// Options: `key-secret` (the id of the passphrase), `header.…` (the file with a detached header).
/// Thread-safe: no lock is held while data are read, written or encrypted; only the header changes, under a
/// lock of its own.
public final class LuksDriver: FormatDriver {
    public static let name = "luks"
    public static let optionsInName = ["key-secret"]

    let file: BlockNode
    /// `nil` when the volume was opened for its metadata only.
    let store: EncryptedStore?
    let volume: Mutex<LuksVolume>
    let isDetached: Bool
    /// The offset of the disk in ``file``, in bytes.
    let payloadOffset: Int
    private let size: Atomic<Int>

    private init(
        file: BlockNode, volume: LuksVolume, isDetached: Bool, store: EncryptedStore?, size: Int
    ) {
        self.file = file
        self.store = store
        self.isDetached = isDetached
        payloadOffset = volume.header.payloadOffset
        self.size = Atomic(size)
        self.volume = Mutex(volume)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        let version: UInt16 = header.bigEndian(at: 6) ?? 0
        return header.part(0..<Luks.magic.count)?.array == Luks.magic && version == Luks.version ? 100 : 0
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`; `invalidArgument`, `notFound`, `denied`
    ///   for the passphrase; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> LuksDriver {
        do throws(BlockError) {
            let secret = options.take("key-secret")
            let detached = try request.openNamedChild(role: "header", options: &options)
            let home = detached ?? request.file
            let volume = try LuksVolume(
                reading: LuksArea(node: home, base: 0, length: try home.length()))
            let offset = volume.header.payloadOffset
            guard detached != nil || offset > 0 else {
                throw BlockError(
                    .invalidArgument, "The LUKS header belongs to another file: name it as 'header.filename'")
            }
            let length = try request.file.length()
            guard length >= offset else {
                throw BlockError(.corrupt, "The LUKS data are beyond the end of the file")
            }
            let store = try unlock(volume, secret, request)
            // A partial last sector of the file is read with zeroes behind it.
            guard let size = (length - offset).roundedUp(to: Luks.sectorBytes) else {
                throw BlockError(.limit, "The file is too large")
            }
            return LuksDriver(
                file: request.file, volume: volume, isDetached: detached != nil, store: store,
                size: size)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    private static func unlock(
        _ volume: LuksVolume, _ secret: String?, _ request: OpenRequest
    ) throws(BlockError) -> EncryptedStore? {
        if request.settings.metadataOnly || request.settings.withoutKeys { return nil }
        // A check needs no key.
        if request.settings.forCheck, secret == nil { return nil }
        guard let secret else {
            throw BlockError(.invalidArgument, "Parameter 'key-secret' is required for cipher")
        }
        let key = try volume.unlock(try request.secrets.secret(secret))
        return EncryptedStore(try SectorCipher(volume.header.suite, key: key))
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    /// Sectors are encrypted as a whole.
    public var writeGranularity: Int { Luks.sectorBytes }
    public static let traits: FormatTraits = .unwrittenIsUndefined
    /// The length of the disk is that of the file, so a shorter file is not damage.
    ///
    /// - Throws: nothing.
    public func mayBeCut() throws(BlockError) -> Bool { false }

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.encoded(compressed: false), length: limit)
    }

    func unlocked() throws(BlockError) -> EncryptedStore {
        guard let store else {
            throw BlockError(.denied, "The LUKS volume was opened without its key", path: file.filename)
        }
        return store
    }

    /// - Throws: `denied` without the key; `io`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        // A partial sector would decrypt to noise.
        try file.requireStored(at: payloadOffset + offset, count: buffer.byteCount)
        try unlocked().read(file, into: &buffer, at: payloadOffset + offset, numbering: offset)
    }

    /// - Throws: nothing.
    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        var grant = WriteGrant(inPlace: guest, at: payloadOffset + guest.lowerBound, in: file)
        grant.form = .encrypted
        return grant
    }

    /// - Throws: `denied` without the key; `io`, `noSpace`.
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        try unlocked().write(file, bytes, at: payloadOffset + guest, numbering: guest)
    }

    /// - Throws: `io`, `noSpace`.
    public func flush() throws(BlockError) { try file.flush() }
    /// - Throws: nothing.
    public func close() throws(BlockError) {}

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let header = volume.withLock { $0.header }
        return FormatInfo(isEncrypted: true, specific: header.description(isDetached: isDetached))
    }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }
}

extension LuksDriver: Resizable {
    /// New space reads as noise, the decrypted zeroes of the file, as in any LUKS volume.
    ///
    /// - Throws: `limit`, `unsupported`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard let rounded = virtualSize.roundedUp(to: Luks.sectorBytes), rounded <= Int.max - payloadOffset
        else { throw BlockError(.limit, "The requested file size is too large", path: file.filename) }
        try file.resize(to: payloadOffset + rounded, preallocation: preallocation)
        try file.flush()
        setVirtualSize(rounded)
    }
}

extension LuksDriver: Amendable {
    public static var amendOptions: [CreateOption] { LuksSlotChange.Keys.plain.declared }

    /// - Throws: `invalidArgument`, `notFound`, `denied`, `limit`; `io`.
    public func amend(
        _ amendment: Amendment, guest: GuestAccess, _ control: JobControl
    ) throws(BlockError) {
        let change = try LuksSlotChange(amendment, .plain)
        let key = try unlocked().cipher.key
        try volume.withLock { volume throws(BlockError) in
            try volume.apply(try change.action(on: volume), key: key)
        }
    }
}

extension LuksHeader {
    /// The fields of `info`, in QEMU's order.
    ///
    /// - Parameter format: the name `luks`, given when the volume is inside another format's image.
    func description(isDetached: Bool, format: String? = nil) -> [InfoField] {
        var fields = [
            InfoField("ivgen-alg", .text(suite.ivGenerator.name)),
            InfoField("detached-header", .flag(isDetached)),
            InfoField("hash-alg", .text(hash.rawValue)),
            InfoField("cipher-alg", .text(suite.algorithm.rawValue)),
            InfoField("uuid", .text(uuid)),
        ]
        if let vectorHash { fields.append(InfoField("ivgen-hash-alg", .text(vectorHash))) }
        if let format { fields.append(InfoField("format", .text(format))) }
        fields.append(InfoField("cipher-mode", .text(suite.mode.rawValue)))
        fields.append(InfoField("slots", .list(slots.map(Self.description))))
        fields.append(InfoField("payload-offset", .number(payloadOffset)))
        fields.append(InfoField("master-key-iters", .number(digestIterations)))
        return fields
    }

    private static func description(_ slot: LuksSlot) -> InfoValue {
        var fields = [InfoField("active", .flag(slot.isActive))]
        if slot.isActive { fields.append(InfoField("iters", .number(slot.iterations))) }
        fields.append(InfoField("key-offset", .number(slot.materialOffset)))
        if slot.isActive { fields.append(InfoField("stripes", .number(Luks.stripes))) }
        return .object(fields)
    }
}
