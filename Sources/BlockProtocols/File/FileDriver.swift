import BlockCore
import CHost
import Synchronization
import SystemPackage

/// A regular file of the host.
///
/// Thread-safe. Reads past the end give zeroes; writes, zeroing and copying past it make the file longer.
public final class FileDriver: UseDeclaring {
    public static let name = "file"

    /// The features that the file was found not to support, so that they are not tried again.
    struct Missing: OptionSet, Sendable {
        let rawValue: UInt8
        static let punchHole = Missing(rawValue: 1)
        static let zeroRange = Missing(rawValue: 2)
        static let allocate = Missing(rawValue: 4)
        static let copyRange = Missing(rawValue: 8)
        static let seekData = Missing(rawValue: 16)
        static let shareRange = Missing(rawValue: 32)
    }

    let file: HostFile
    private let missing = Atomic<UInt8>(0)
    /// The last run of data that was found. Holes are not remembered: a write may fill them at any time.
    private let lastData = Mutex(0..<0)

    init(_ file: HostFile) { self.file = file }

    /// Opens an existing regular file.
    ///
    /// - Throws: `notFound`, `io`, `denied`, `unsupported`, with the message `Could not open 'path': …`;
    ///   `invalidArgument` for a file that is not regular; `busy` when the use by another process conflicts.
    public convenience init(opening path: String, settings: OpenSettings = OpenSettings()) throws(BlockError)
    {
        let file = try HostFile.open(path, FileOpenOptions(settings))
        try Self.checkRegular(file)
        self.init(file)
    }

    static func checkRegular(_ file: HostFile) throws(BlockError) {
        guard file.kind == .regular else {
            throw BlockError(
                .invalidArgument, "'file' driver requires '\(file.path)' to be a regular file",
                path: file.path)
        }
    }

    // MARK: Properties of the file

    /// - Throws: `io`.
    public func length() throws(BlockError) -> Int {
        let length = try reporting(file.path) { () throws(Errno) in try FileStatus.length(file.descriptor) }
        return length
    }

    public func allocatedSize() -> Int? { try? FileStatus(file.descriptor).allocatedBytes }

    public var identity: String? { file.identity }

    public var place: String? { file.place }

    public var requestAlignment: Int { file.alignment }

    func lacks(_ feature: Missing) -> Bool { missing.load(ordering: .relaxed) & feature.rawValue != 0 }

    func note(missing feature: Missing) { _ = missing.bitwiseOr(feature.rawValue, ordering: .relaxed) }

    // MARK: Requests

    /// - Throws: `io`; `noSpace` for an offset that overflows.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try file.read(into: &buffer, at: offset)
    }

    /// - Throws: `io`, `noSpace`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try file.write(bytes, at: offset)
    }

    /// - Throws: `io`, `noSpace`; after one failure every later call fails too.
    public func flush() throws(BlockError) { try file.flush() }

    public func startWriteback() {
        if !file.options.ignoresFlush { platter_start_writeback(file.descriptor) }
    }

    /// - Throws: `busy`, `io`, `unsupported`.
    public func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try file.declareUse(toleratingWriters: toleratingWriters)
    }

    /// - Throws: `busy`, `notFound`, `denied`, `unsupported`, `io`; the file keeps its old mode then.
    public func reopen(readOnly: Bool) throws(BlockError) { try file.reopen(readOnly: readOnly) }

    public func close() { file.close() }

    // MARK: Holes

    /// - Throws: `noSpace` for an offset that overflows.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let end = try file.checkRange(offset, limit)
        let known = lastData.withLock { $0 }
        if known.contains(offset) { return data(offset, min(end, known.upperBound)) }
        if lacks(.seekData) { return data(offset, end) }
        var code: Int32 = 0
        let start = Int(platter_seek_data(file.descriptor, Int64(offset), &code))
        if start > offset { return hole(offset, min(end, start)) }
        guard start == offset else { return try withoutData(offset, end, Errno(rawValue: code)) }
        let stop = Int(platter_seek_hole(file.descriptor, Int64(offset), &code))
        guard stop > offset else { return data(offset, end) }
        lastData.withLock { $0 = offset..<stop }
        return data(offset, min(end, stop))
    }

    /// The extent at `offset` when the search for data failed.
    private func withoutData(_ offset: Int, _ end: Int, _ code: Errno) throws(BlockError) -> Extent {
        // ENXIO: there is no data up to the end of the file.
        if code == .noSuchAddressOrDevice { return hole(offset, end) }
        note(missing: .seekData)
        return data(offset, end)
    }

    private func data(_ offset: Int, _ end: Int) -> Extent {
        Extent(.data(hostOffset: offset), length: end - offset)
    }

    private func hole(_ offset: Int, _ end: Int) -> Extent {
        Extent(.zero(hostOffset: offset), length: end - offset)
    }

    /// Forgets the last run of data. Called when space may be given back.
    func forgetData() { lastData.withLock { $0 = 0..<0 } }
}
