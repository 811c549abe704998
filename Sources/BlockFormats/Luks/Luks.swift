import BlockCore

/// Names, numbers and limits of LUKS version 1.
///
/// Source: cryptsetup, "LUKS1 On-Disk Format Specification" 1.2.3.
enum Luks {
    /// "LUKS\xba\xbe"
    static let magic: [UInt8] = [0x4C, 0x55, 0x4B, 0x53, 0xBA, 0xBE]
    static let version: UInt16 = 1
    static let sectorBytes = 512
    static let headerBytes = 592
    static let slotCount = 8
    /// The size of a slot's entry in the header, in bytes.
    static let slotEntryBytes = 48
    static let digestBytes = 20
    static let saltBytes = 32
    static let activeFlag: UInt32 = 0x00AC_71F3
    static let inactiveFlag: UInt32 = 0x0000_DEAD
    /// The number of stripes into which the anti-forensic splitter splits a key.
    static let stripes = 4000
    /// The start and the alignment of key material, in bytes.
    static let alignmentBytes = 4096

    /// Limits of the work that a header demands; more is refused before any of it is done.
    enum Limit {
        /// The digests that opening may compute: iterations times digests per key, for all active slots and
        /// the checks of their keys. Less than a minute on a machine of 2024.
        static let derivationWork = 1 << 28
        /// The digests for one new slot.
        static let slotWork = 1 << 26
    }

    /// The size of split key material, in bytes rounded up to sectors.
    static func materialBytes(keyBytes: Int) -> Int {
        (keyBytes * stripes).dividedRoundingUp(by: sectorBytes) * sectorBytes
    }

    /// The distance from one slot's key material to the next, in bytes.
    static func slotBytes(keyBytes: Int) -> Int {
        (keyBytes * stripes).dividedRoundingUp(by: alignmentBytes) * alignmentBytes
    }

    /// The size of header and key material in volumes made by Platter, in bytes.
    static func areaBytes(keyBytes: Int) -> Int { alignmentBytes + slotCount * slotBytes(keyBytes: keyBytes) }
}

/// One of the eight places for a passphrase.
struct LuksSlot: Sendable, Equatable {
    var isActive = false
    var iterations = 0
    var salt = [UInt8](repeating: 0, count: Luks.saltBytes)
    /// The offset of the key material, in bytes from the start of the header.
    var materialOffset = 0
}

/// The place of a LUKS header and its key material: a whole file, or some clusters of a qcow2 image.
struct LuksArea: Sendable {
    let node: BlockNode
    /// The offset of the header in `node`, in bytes.
    let base: Int
    /// The space for header and key material, in bytes.
    let length: Int

    func checked(_ offset: Int, _ count: Int) throws(BlockError) -> Int {
        guard offset >= 0, count >= 0, offset <= length, count <= length - offset else {
            throw BlockError(
                .corrupt, "LUKS key material is beyond the end of its place", path: node.filename,
                offset: offset)
        }
        return base + offset
    }

    func read(at offset: Int, count: Int) throws(BlockError) -> [UInt8] {
        try node.readBytes(at: checked(offset, count), count: count)
    }

    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try node.write(bytes, at: checked(offset, bytes.byteCount))
    }

    /// Makes all writes durable.
    func flush() throws(BlockError) { try node.flush() }
}
