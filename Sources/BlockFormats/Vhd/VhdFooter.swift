import BlockCore

/// The footer at the end of every image, with a copy at the start of most. Its fields are in
/// VhdFooterFields.swift.
struct VhdFooter: Sendable, Equatable {
    /// All 512 bytes; unknown fields stay unchanged.
    private(set) var bytes: [UInt8]

    private static let version: UInt32 = 0x0001_0000
    private static let noOffset = UInt64.max
    /// QEMU's creator codes: for a disk of its geometry's size, and for one of the stated size.
    static let creatorByGeometry = Array("qemu".utf8)
    static let creatorBySize = Array("qem2".utf8)
    /// The creators whose disks have their geometry's size: Virtual PC, and QEMU without `force_size`.
    private static let creatorsByGeometry = ["vpc ", "qemu"].map { Array($0.utf8) }
    /// The creators whose stated size QEMU before 10.0 uses; for all others it uses the geometry.
    private static let creatorsBySizeForOldQEMU = ["win ", "qem2", "d2v ", "tap\0", "CTXS"]
        .map { Array($0.utf8) }

    /// A new footer, without sizes.
    init(type: Vhd.DiskType, headerOffset: Int?, uuid: ImageUUID, time: UInt32) {
        bytes = Vhd.cookie + [UInt8](repeating: 0, count: Vhd.footerBytes - Vhd.cookie.count)
        Field.features.store(2, in: &bytes)
        Field.version.store(UInt64(Self.version), in: &bytes)
        Field.time.store(UInt64(time), in: &bytes)
        Field.creatorVersion.store(0x0005_0003, in: &bytes)
        bytes.put(Array("Wi2k".utf8), at: Field.creatorSystem.offset)
        bytes.put(uuid.bytes, at: Field.uuid.offset)
        self.type = type
        self.headerOffset = headerOffset
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    /// The footer of an open image; `nil` for an image of another format.
    init?(parentIdentity node: BlockNode) {
        guard let bytes = node.parentIdentity(of: VhdDriver.name) else { return nil }
        self.init(bytes: bytes)
    }

    /// The footer in `bytes`, whose last byte may be missing; `nil` when there is none.
    static func find(_ bytes: [UInt8]) -> VhdFooter? {
        guard bytes.count >= Vhd.oldFooterBytes, bytes.starts(with: Vhd.cookie) else { return nil }
        return VhdFooter(bytes: Array((bytes + [0]).prefix(Vhd.footerBytes)))
    }

    var isIntact: Bool {
        Field.checksum.number(in: bytes) == UInt64(Vhd.checksum(bytes, at: Field.checksum.offset))
    }

    /// The bytes with their checksum.
    func sealed() -> [UInt8] {
        var result = bytes
        Field.checksum.store(UInt64(Vhd.checksum(bytes, at: Field.checksum.offset)), in: &result)
        return result
    }

    // MARK: Fields

    var type: Vhd.DiskType? {
        get { Vhd.DiskType(rawValue: UInt32(truncatingIfNeeded: Field.type.number(in: bytes))) }
        set { Field.type.store(UInt64(newValue?.rawValue ?? 0), in: &bytes) }
    }
    /// The offset of the header of a dynamic disk, in bytes.
    var headerOffset: Int? {
        get { Int(exactly: Field.dataOffset.number(in: bytes)) }
        set { Field.dataOffset.store(newValue.map { UInt64($0) } ?? Self.noOffset, in: &bytes) }
    }
    var uuid: ImageUUID { ImageUUID(bytes: Array(bytes[Field.uuid.range])) }
    var time: UInt32 { UInt32(truncatingIfNeeded: Field.time.number(in: bytes)) }
    var isSavedState: Bool { Field.savedState.number(in: bytes) != 0 }
    private var creator: [UInt8] {
        get { Array(bytes[Field.creator.range]) }
        set { bytes.put(newValue, at: Field.creator.offset) }
    }
    var creatorText: String {
        String(decoding: creator.prefix { $0 >= 0x20 && $0 < 0x7F }, as: UTF8.self)
    }
    var geometry: VhdGeometry {
        get {
            let value = Int(truncatingIfNeeded: Field.geometry.number(in: bytes))
            return VhdGeometry(
                cylinders: value >> 16, heads: value >> 8 & 0xFF, sectorsPerTrack: value & 0xFF)
        }
        set {
            let value = newValue.cylinders << 16 | newValue.heads << 8 | newValue.sectorsPerTrack
            Field.geometry.store(UInt64(truncatingIfNeeded: value), in: &bytes)
        }
    }
    private var currentSize: UInt64 { Field.currentSize.number(in: bytes) }

    // MARK: Sizes

    /// The choice between the two sizes in the footer.
    enum SizeRule: String, Sendable {
        case geometry = "chs"
        case currentSize = "current_size"
    }

    private var rule: SizeRule {
        Self.creatorsByGeometry.contains(creator) && geometry.sectors != 0 ? .geometry : .currentSize
    }

    /// The size of the disk in bytes: whole sectors.
    ///
    /// - Throws: `limit` for more than ``Vhd/Limit/diskBytes``.
    func virtualSize(by stated: SizeRule? = nil) throws(BlockError) -> Int {
        // The largest geometry is recognised by its number of sectors, as in QEMU: several geometries have as
        // many.
        guard (stated ?? rule) == .geometry, geometry.sectors != VhdGeometry.largest.sectors else {
            return try statedSize()
        }
        return geometry.sectors * Vhd.sectorBytes
    }

    /// The "current size" in whole sectors.
    func statedSize() throws(BlockError) -> Int {
        guard currentSize <= UInt64(Vhd.Limit.diskBytes) else {
            throw BlockError(.limit, "The VHD image states a size of more than 2040 GiB")
        }
        return Int(currentSize).roundedDown(to: Vhd.sectorBytes)
    }

    /// Sets the size of the disk, a multiple of the sector size, such that all programs use it, including
    /// QEMU before 10.0. If no geometry has exactly that size, and a program might use the geometry, the
    /// creator changes to QEMU's `force_size` code.
    mutating func setSize(_ size: Int) {
        let fitting = VhdGeometry(of: size / Vhd.sectorBytes)
        let isExact = fitting == .largest || fitting.sectors == size / Vhd.sectorBytes
        if !isExact, !Self.creatorsBySizeForOldQEMU.contains(creator) { creator = Self.creatorBySize }
        geometry = creator == Self.creatorBySize ? .largest : fitting
        Field.currentSize.store(UInt64(size), in: &bytes)
    }

    /// Sets the size of a new disk: exactly, or the next larger size of a geometry.
    mutating func setNewSize(_ size: Int, exactly: Bool) {
        let geometry = exactly ? nil : VhdGeometry.holding(size / Vhd.sectorBytes)
        creator = exactly ? Self.creatorBySize : Self.creatorByGeometry
        self.geometry = geometry ?? .largest
        let size = geometry.map { $0.sectors * Vhd.sectorBytes } ?? size
        Field.originalSize.store(UInt64(size), in: &bytes)
        Field.currentSize.store(UInt64(size), in: &bytes)
    }

    /// Copies creator, sizes and geometry of the parent, whose disk has the same size.
    mutating func takeSizes(of parent: VhdFooter) {
        for range in [Field.creator.range, Field.originalSize.offset..<Field.type.offset] {
            bytes.replaceSubrange(range, with: parent.bytes[range])
        }
    }

    /// - Throws: `unsupported` for an unknown version or disk type.
    func validate() throws(BlockError) {
        guard Field.version.number(in: bytes) >> 16 == UInt64(Self.version) >> 16 else {
            throw BlockError(.unsupported, "The VHD image has a version other than 1")
        }
        guard type != nil else {
            throw BlockError(
                .unsupported, "VHD disks of type \(Field.type.number(in: bytes)) are not supported")
        }
    }
}
