import BlockCore

/// The log of Linux' device-mapper target `log-writes`, of which QEMU's `blklogwrites` writes a part.
///
/// Source: the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst`, and the structures in
/// `drivers/md/dm-log-writes.c`. All numbers are little-endian; "sector" is the log's own unit.
///
/// ```
/// sector 0   0  magic    8  version   16  number of entries   24  bytes of a sector (32 bits)
/// sector 1   0  sector   8  sectors   16  flags               24  bytes of text, which follow
///   …        the entry's data, unless it is a discard; then the next entry
/// ```
enum LogWrites {
    static let magic: UInt64 = 0x6A73_6677_7368_72
    static let version: UInt64 = 1
    /// The bytes of the first sector that are in use, and those of an entry.
    static let headerBytes = 28
    static let entryBytes = 32

    /// The sizes of a sector that a log may have, in bytes: powers of two from an entry's size on.
    static let sectorBytes = entryBytes..<1 << 24

    /// The flags of an entry.
    struct Flags: OptionSet, Sendable {
        let rawValue: UInt64
        static let flush = Flags(rawValue: 1)
        static let forceUnitAccess = Flags(rawValue: 2)
        static let discard = Flags(rawValue: 4)
        static let mark = Flags(rawValue: 8)
        static let metadata = Flags(rawValue: 16)
        static let known: Flags = [.flush, .forceUnitAccess, .discard, .mark, .metadata]
    }

    static func isValid(sectorBytes size: Int) -> Bool { sectorBytes.contains(size) && size.isPowerOfTwo }
}

/// The first sector of a log.
struct LogHeader: Sendable {
    var entries: Int
    var sectorBytes: Int

    init(entries: Int, sectorBytes: Int) {
        self.entries = entries
        self.sectorBytes = sectorBytes
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`.
    init(_ bytes: RawSpan, path: String) throws(BlockError) {
        guard bytes.littleEndian(UInt64.self, at: 0) == LogWrites.magic,
            let version = bytes.littleEndian(UInt64.self, at: 8),
            let entries = bytes.littleEndian(UInt64.self, at: 16),
            let size = bytes.littleEndian(UInt32.self, at: 24)
        else { throw BlockError(.wrongFormat, "Invalid log superblock magic", path: path) }
        guard version == LogWrites.version else {
            throw BlockError(.unsupported, "Unsupported log version \(version)", path: path)
        }
        guard LogWrites.isValid(sectorBytes: Int(size)) else {
            throw BlockError(.corrupt, "Invalid log sector size \(size)", path: path)
        }
        guard let count = Int(exactly: entries) else {
            throw BlockError(.corrupt, "The log has \(entries) entries", path: path)
        }
        self.init(entries: count, sectorBytes: Int(size))
    }

    /// The whole sector.
    var bytes: [UInt8] {
        [UInt8](zeroed: sectorBytes.roundedUp(to: LogWrites.entryBytes) ?? sectorBytes) { bytes in
            bytes.storeLittleEndian(LogWrites.magic, at: 0)
            bytes.storeLittleEndian(LogWrites.version, at: 8)
            bytes.storeLittleEndian(UInt64(entries), at: 16)
            bytes.storeLittleEndian(UInt32(truncatingIfNeeded: sectorBytes), at: 24)
        }
    }
}

/// One entry of a log, without its data.
struct LogEntry: Sendable {
    /// The first sector and the number of sectors on the device.
    var sector: Int
    var sectors: Int
    var flags: LogWrites.Flags

    init(sector: Int = 0, sectors: Int = 0, flags: LogWrites.Flags = []) {
        self.sector = sector
        self.sectors = sectors
        self.flags = flags
    }

    /// The number of sectors of data that follow in the log.
    var dataSectors: Int { flags.contains(.discard) ? 0 : sectors }

    /// - Throws: `corrupt`, with the entry's number in the message.
    init(_ bytes: RawSpan, number: Int, path: String) throws(BlockError) {
        guard let sector = bytes.littleEndian(UInt64.self, at: 0).flatMap({ Int(exactly: $0) }),
            let sectors = bytes.littleEndian(UInt64.self, at: 8).flatMap({ Int(exactly: $0) }),
            let flags = bytes.littleEndian(UInt64.self, at: 16)
        else { throw BlockError(.corrupt, "Invalid range in log entry \(number)", path: path) }
        guard LogWrites.Flags.known.isSuperset(of: LogWrites.Flags(rawValue: flags)) else {
            let text = String(flags, radix: 16)
            throw BlockError(.corrupt, "Invalid flags 0x\(text) in log entry \(number)", path: path)
        }
        self.init(sector: sector, sectors: sectors, flags: LogWrites.Flags(rawValue: flags))
    }

    /// The sector before the entry's data.
    func bytes(sectorBytes: Int) -> [UInt8] {
        [UInt8](zeroed: sectorBytes) { bytes in
            bytes.storeLittleEndian(UInt64(sector), at: 0)
            bytes.storeLittleEndian(UInt64(sectors), at: 8)
            bytes.storeLittleEndian(flags.rawValue, at: 16)
        }
    }
}
