import BlockCore

/// The footer at the end of every image, with a copy at the start of most; all big-endian:
///
/// ```
/// 000 "conectix"   008 features      00C version      010 data offset (8)  018 time       01C creator
/// 020 its version  024 host system   028 size at first (8)                 030 size now (8)
/// 038 cylinders (2), heads, sectors  03C type         040 checksum         044 UUID (16)  054 saved state
/// ```
struct VhdFooter: Sendable, Equatable {
    /// All 512 bytes; unknown fields stay unchanged.
    private(set) var bytes: [UInt8]

    private enum Field {
        static let features = 0x08
        static let version = 0x0C
        static let dataOffset = 0x10
        static let time = 0x18
        static let creator = 0x1C
        static let creatorVersion = 0x20
        static let creatorSystem = 0x24
        static let originalSize = 0x28
        static let currentSize = 0x30
        static let geometry = 0x38
        static let type = 0x3C
        static let checksum = 0x40
        static let uuid = 0x44
        static let savedState = 0x54
    }

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
        bytes.put(2 as UInt32, at: Field.features)
        bytes.put(Self.version, at: Field.version)
        bytes.put(time, at: Field.time)
        bytes.put(0x0005_0003 as UInt32, at: Field.creatorVersion)
        bytes.put(Array("Wi2k".utf8), at: Field.creatorSystem)
        bytes.put(uuid.bytes, at: Field.uuid)
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

    var isIntact: Bool { bytes.number32(Field.checksum) == Vhd.checksum(bytes, at: Field.checksum) }

    /// The bytes with their checksum.
    func sealed() -> [UInt8] {
        var result = bytes
        result.put(Vhd.checksum(bytes, at: Field.checksum), at: Field.checksum)
        return result
    }

    // MARK: Fields

    var type: Vhd.DiskType? {
        get { Vhd.DiskType(rawValue: bytes.number32(Field.type)) }
        set { bytes.put(newValue?.rawValue ?? 0, at: Field.type) }
    }
    /// The offset of the header of a dynamic disk, in bytes.
    var headerOffset: Int? {
        get { Int(exactly: bytes.number64(Field.dataOffset)) }
        set { bytes.put(newValue.map { UInt64($0) } ?? Self.noOffset, at: Field.dataOffset) }
    }
    var uuid: ImageUUID { ImageUUID(bytes: Array(bytes[Field.uuid..<Field.uuid + 16])) }
    var time: UInt32 { bytes.number32(Field.time) }
    var isSavedState: Bool { bytes[Field.savedState] != 0 }
    private var creator: [UInt8] {
        get { Array(bytes[Field.creator..<Field.creator + 4]) }
        set { bytes.put(newValue, at: Field.creator) }
    }
    var creatorText: String {
        String(decoding: creator.prefix { $0 >= 0x20 && $0 < 0x7F }, as: UTF8.self)
    }
    var geometry: VhdGeometry {
        get {
            VhdGeometry(
                cylinders: Int(bytes.number32(Field.geometry) >> 16), heads: Int(bytes[Field.geometry + 2]),
                sectorsPerTrack: Int(bytes[Field.geometry + 3]))
        }
        set {
            let value = newValue.cylinders << 16 | newValue.heads << 8 | newValue.sectorsPerTrack
            bytes.put(UInt32(truncatingIfNeeded: value), at: Field.geometry)
        }
    }
    private var currentSize: UInt64 { bytes.number64(Field.currentSize) }

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
        bytes.put(UInt64(size), at: Field.currentSize)
    }

    /// Sets the size of a new disk: exactly, or the next larger size of a geometry.
    mutating func setNewSize(_ size: Int, exactly: Bool) {
        let geometry = exactly ? nil : VhdGeometry.holding(size / Vhd.sectorBytes)
        creator = exactly ? Self.creatorBySize : Self.creatorByGeometry
        self.geometry = geometry ?? .largest
        let size = geometry.map { $0.sectors * Vhd.sectorBytes } ?? size
        bytes.put(UInt64(size), at: Field.originalSize)
        bytes.put(UInt64(size), at: Field.currentSize)
    }

    /// Copies creator, sizes and geometry of the parent, whose disk has the same size.
    mutating func takeSizes(of parent: VhdFooter) {
        for range in [Field.creator..<Field.creator + 4, Field.originalSize..<Field.type] {
            bytes.replaceSubrange(range, with: parent.bytes[range])
        }
    }

    /// - Throws: `unsupported` for an unknown version or disk type.
    func validate() throws(BlockError) {
        guard bytes.number32(Field.version) >> 16 == Self.version >> 16 else {
            throw BlockError(.unsupported, "The VHD image has a version other than 1")
        }
        guard type != nil else {
            throw BlockError(
                .unsupported, "VHD disks of type \(bytes.number32(Field.type)) are not supported")
        }
    }
}
