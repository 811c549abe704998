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
    static let digestBytes = 20
    static let saltBytes = 32
    static let activeFlag: UInt32 = 0x00AC_71F3
    static let inactiveFlag: UInt32 = 0x0000_DEAD
    /// Into how many parts the anti-forensic splitter cuts a key.
    static let stripes = 4000
    /// Where key material starts, and to what its size is rounded.
    static let alignmentBytes = 4096

    /// What a header may ask for; more is refused before any of it is done.
    enum Limit {
        /// Digests that opening may compute: iterations times digests in a key, over all active slots and
        /// the checks of what they unlock. Less than a minute on a machine of 2024.
        static let derivationWork = 1 << 28
        /// Digests for one new slot.
        static let slotWork = 1 << 26
    }

    /// The bytes that split key material takes, rounded up to sectors.
    static func materialBytes(keyBytes: Int) -> Int {
        (keyBytes * stripes).dividedRoundingUp(by: sectorBytes) * sectorBytes
    }

    /// The distance from one slot's key material to the next, in bytes.
    static func slotBytes(keyBytes: Int) -> Int {
        (keyBytes * stripes).dividedRoundingUp(by: alignmentBytes) * alignmentBytes
    }

    /// How many bytes header and key material take in volumes made here.
    static func areaBytes(keyBytes: Int) -> Int { alignmentBytes + slotCount * slotBytes(keyBytes: keyBytes) }
}

/// One of the eight places for a passphrase.
struct LuksSlot: Sendable, Equatable {
    var isActive = false
    var iterations = 0
    var salt = [UInt8](repeating: 0, count: Luks.saltBytes)
    /// Where the key material is, in bytes from the start of the header.
    var materialOffset = 0
}

/// Where a LUKS header and its key material lie: a whole file, or some clusters of a qcow2 image.
struct LuksArea: Sendable {
    let node: BlockNode
    /// Where the header starts in `node`, in bytes.
    let base: Int
    /// How far header and key material may go, in bytes.
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

    /// Makes what was written durable.
    func flush() throws(BlockError) { try node.flush() }
}
