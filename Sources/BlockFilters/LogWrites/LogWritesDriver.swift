import BlockCore

/// Logs all changes to a disk, in the format of Linux' `dm-log-writes`: QEMU's `blklogwrites`.
///
/// Thread-safe.
///
/// `driver=blklogwrites,file.…,log.…`, with `log-sector-size`, `log-append` and `log-super-update-interval`.
/// A change is logged once the disk below has made it, before the request returns; so the log's order is that
/// of changes that overlap, and a flush is behind all that it makes durable. Whole sectors of the log are
/// logged: the rest of one that a write touches is read. Zeroing is logged as a write of zeroes.
public final class LogWritesDriver: OpenableFilter {
    public static let name = "blklogwrites"
    public static let optionsInName: [String]? = []
    private static let logRole = "log"
    private static let defaultSectorBytes = 512

    public let child: BlockNode
    private let writer: LogWriter
    /// Whether the disk below flushes after each change.
    private let isWriteThrough: Bool

    init(over child: BlockNode, _ writer: LogWriter) {
        self.child = child
        self.writer = writer
        isWriteThrough = child.settings.cache.isWriteThrough
    }

    /// A filter that begins a new log.
    ///
    /// - Parameters:
    ///   - sectorBytes: the log's unit, in bytes: a power of two from 32 to 2^23.
    ///   - countInterval: after how many entries their number is written.
    public convenience init(
        over child: BlockNode, log: BlockNode, sectorBytes: Int = 512, countInterval: Int = 4096
    ) {
        self.init(
            over: child, LogWriter(log, sectorBytes: sectorBytes, countInterval: countInterval))
    }

    public var children: [FilterChild] {
        [
            FilterChild(role: Self.childRole, node: child),
            FilterChild(role: Self.logRole, node: writer.log),
        ]
    }

    // MARK: Opening

    /// - Throws: `invalidArgument`; for a log that is appended to also `wrongFormat`, `unsupported`,
    ///   `corrupt`, `limit`; as ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> LogWritesDriver {
        let child = try request.openChild()
        var settings = request.settings
        // The log grows.
        settings.holdsImage = true
        let log = try request.openChild(role: logRole, settings, options: &options)
        let size = try options.takeSize("log-sector-size")
        let appends = try options.takeFlag("log-append") ?? false
        guard !appends || size == nil else {
            throw BlockError(.invalidArgument, "log-append and log-sector-size are mutually exclusive")
        }
        let sectorBytes = size ?? defaultSectorBytes
        guard LogWrites.isValid(sectorBytes: sectorBytes) else {
            throw BlockError(.invalidArgument, "Invalid log sector size \(sectorBytes)")
        }
        let interval = try options.takeNumber("log-super-update-interval") ?? 4096
        guard interval > 0 else {
            throw BlockError(.invalidArgument, "Invalid log superblock update interval \(interval)")
        }
        guard appends else {
            return LogWritesDriver(
                over: child, log: log, sectorBytes: sectorBytes, countInterval: interval)
        }
        return LogWritesDriver(
            over: child,
            try LogWriter(appendingTo: log, newSectorBytes: sectorBytes, countInterval: interval))
    }

    // MARK: Requests

    /// - Throws: errors of the log; as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let range = try Range.request(offset, bytes.byteCount)
        let whole = try range.grown(to: writer.sectorBytes)
        guard !range.isEmpty else { return }
        try child.holding(whole, exclusive: true) { () throws(BlockError) in
            try child.write(bytes, at: offset)
            try append(entry(whole)) { place throws(BlockError) in
                try writer.log.write(bytes, at: place + (offset - whole.lowerBound))
                try logEdges(of: range, in: whole, at: place)
            }
        }
    }

    /// - Throws: errors of the log; as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let range = try Range.request(offset, count)
        let whole = try range.grown(to: writer.sectorBytes)
        try child.holding(whole, exclusive: true) { () throws(BlockError) in
            try child.writeZeroes(at: offset, count: count, flags: flags)
            try append(entry(whole)) { place throws(BlockError) in
                try writer.log.writeZeroes(at: place, count: whole.count)
                try logEdges(of: range, in: whole, at: place)
            }
        }
    }

    /// Parts of sectors are left alone.
    ///
    /// - Throws: errors of the log; as ``BlockNode/discard(at:count:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        let range = try Range.request(offset, count)
        let end = range.upperBound.roundedDown(to: writer.sectorBytes)
        guard let start = range.lowerBound.roundedUp(to: writer.sectorBytes), start < end else { return }
        try child.holding(start..<end, exclusive: true) { () throws(BlockError) in
            try child.discard(at: start, count: end - start)
            try append(entry(start..<end, .discard)) { _ in }
        }
    }

    /// - Throws: errors of the log; as ``BlockNode/flush()``.
    public func flush() throws(BlockError) {
        try child.flush()
        try writer.append(LogEntry(flags: .flush))
    }

    /// - Throws: errors of the log.
    public func willReopen(readOnly: Bool) throws(BlockError) { if readOnly { try writer.count() } }

    /// - Throws: errors of the log.
    public func close() throws(BlockError) { if !writer.log.isReadOnly { try writer.count() } }

    private func append(
        _ entry: LogEntry, _ writeData: (Int) throws(BlockError) -> Void
    ) throws(BlockError) {
        try writer.append(entry, writeData)
        if isWriteThrough { try writer.append(LogEntry(flags: .flush)) }
    }

    private func entry(_ range: Range<Int>, _ flags: LogWrites.Flags = []) -> LogEntry {
        LogEntry(
            sector: range.lowerBound / writer.sectorBytes, sectors: range.count / writer.sectorBytes,
            flags: flags)
    }

    /// Logs what the disk holds in `whole` around `range`; the end of the disk is completed with zeroes.
    ///
    /// - Parameter place: the offset of `whole` in the log, in bytes.
    private func logEdges(
        of range: Range<Int>, in whole: Range<Int>, at place: Int
    ) throws(BlockError) {
        let length = try child.length()
        for edge in [whole.lowerBound..<range.lowerBound, range.upperBound..<whole.upperBound]
        where !edge.isEmpty {
            var bytes = try child.readBytes(
                at: edge.lowerBound, count: max(0, min(edge.upperBound, length) - edge.lowerBound))
            bytes.append(contentsOf: repeatElement(0, count: edge.count - bytes.count))
            try writer.log.write(bytes.span.bytes, at: place + (edge.lowerBound - whole.lowerBound))
        }
    }
}
