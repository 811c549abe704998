import BlockCore

/// Reserves space in large steps for a file that grows: QEMU's `preallocate`.
///
/// Thread-safe.
///
/// `driver=preallocate,file.…`, with `prealloc-size` (128 MiB) and `prealloc-align` (1 MiB), in bytes. It
/// stands between a format and its file. A write past the end first makes the file longer, with reserved
/// space; the format above sees the end of what it wrote. Closing, and reopening read-only, give back what
/// was not used; a program that is killed leaves it. Where space cannot be reserved, the filter changes
/// nothing.
public final class PreallocateDriver: OpenableFilter {
    public static let name = "preallocate"
    public static let optionsInName: [String]? = []
    private static let sectorBytes = 512
    private static let alignKey = "prealloc-align"

    private struct State {
        /// The end of the file as the format above sees it.
        var dataEnd: Int
        /// The end of the file. A thread that makes it longer holds the lock, and no write ends behind it
        /// while space can be reserved: so setting the length never cuts off bytes.
        var fileEnd: Int
        /// Set once the file has refused to reserve space.
        var hasFailed = false
    }

    public let child: BlockNode
    private let stepBytes: Int
    private let alignment: Int
    private let state: Monitor<State>

    /// - Parameters:
    ///   - stepBytes: how many bytes are reserved behind a write.
    ///   - alignment: the end of the file is a multiple of that many bytes; 0 or 1 for any.
    /// - Throws: as ``BlockNode/length()``.
    public init(
        over child: BlockNode, stepBytes: Int = .mib(128), alignment: Int = .mib(1)
    ) throws(BlockError) {
        self.child = child
        self.stepBytes = max(stepBytes, 0)
        self.alignment = max(alignment, 1)
        let length = try child.length()
        state = Monitor(State(dataEnd: length, fileEnd: length))
    }

    /// - Throws: `invalidArgument`; as ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> PreallocateDriver {
        let alignment = try options.takeSize(alignKey) ?? .mib(1)
        let step = try options.takeSize("prealloc-size") ?? .mib(128)
        guard alignment.isMultiple(of: sectorBytes) else {
            throw BlockError(
                .invalidArgument, "\(alignKey) parameter of preallocate filter is not aligned to 512")
        }
        return try PreallocateDriver(over: request.openChild(), stepBytes: step, alignment: alignment)
    }

    // MARK: Requests

    /// - Throws: as ``BlockNode/length()``.
    public func length() throws(BlockError) -> Int {
        child.isReadOnly ? try child.length() : state.withLock { $0.dataEnd }
    }

    /// - Throws: as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let range = try Range.request(offset, bytes.byteCount)
        reserve(range)
        try child.write(bytes, at: offset)
        noteWritten(range)
    }

    /// - Throws: as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let range = try Range.request(offset, count)
        reserve(range)
        try child.writeZeroes(at: offset, count: count, flags: flags)
        noteWritten(range)
    }

    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        try giveBack()
        try child.resize(to: size, preallocation: preallocation)
        try lookAtFile()
    }

    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    public func willReopen(readOnly: Bool) throws(BlockError) { if readOnly { try giveBack() } }

    /// - Throws: as ``BlockNode/length()``.
    public func didReopen(readOnly: Bool) throws(BlockError) { if !readOnly { try lookAtFile() } }

    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    public func close() throws(BlockError) { try giveBack() }

    // MARK: Space

    /// Makes the file long enough for a write, with space to spare, if it can.
    private func reserve(_ range: Range<Int>) {
        state.withLock { state in
            guard range.upperBound > state.fileEnd, !state.hasFailed else { return }
            let (wanted, overflow) = range.upperBound.addingReportingOverflow(stepBytes)
            guard !overflow, let end = wanted.roundedUp(to: alignment) else { return state.hasFailed = true }
            do throws(BlockError) {
                try child.resize(to: end, preallocation: .falloc)
                state.fileEnd = end
            } catch {
                // A full disk, or a file that cannot grow: the write itself shows what is wrong.
                state.hasFailed = true
                if let length = try? child.length(), length > state.fileEnd {
                    try? child.resize(to: state.fileEnd)
                }
            }
        }
    }

    private func noteWritten(_ range: Range<Int>) {
        guard !range.isEmpty else { return }
        state.withLock { state in
            state.dataEnd = max(state.dataEnd, range.upperBound)
            state.fileEnd = max(state.fileEnd, range.upperBound)
        }
    }

    /// Shortens the file to what was written. No write is under way.
    private func giveBack() throws(BlockError) {
        guard !child.isReadOnly else { return }
        try state.withLock { (state) throws(BlockError) in
            guard state.fileEnd > state.dataEnd else { return }
            try child.resize(to: state.dataEnd)
            state.fileEnd = state.dataEnd
        }
    }

    private func lookAtFile() throws(BlockError) {
        let length = try child.length()
        state.withLock { $0 = State(dataEnd: length, fileEnd: length) }
    }
}
