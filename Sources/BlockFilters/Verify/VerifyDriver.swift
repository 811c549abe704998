import BlockCore

/// Does everything on two disks and compares what they read as: QEMU's `blkverify`.
///
/// Thread-safe.
///
/// `blkverify:RAW:IMAGE`, or `driver=blkverify,raw.…,test.…`. The raw disk is the reference; the filter shows
/// its map and the size of the tested image. A request on which the two disagree fails with the offset of the
/// first difference, where QEMU's program ends. Discards do nothing: the disks would differ afterwards.
public final class VerifyDriver: OpenableFilter {
    public static let name = "blkverify"
    public static let childRole = "raw"
    public static let schemes = [name]
    public static let optionsInName: [String]? = []
    private static let testRole = "test"
    private static let testNameKey = "x-image"

    public let child: BlockNode
    private let test: BlockNode

    /// - Parameter child: the reference, to which `test` is compared.
    public init(over child: BlockNode, testing test: BlockNode) {
        self.child = child
        self.test = test
    }

    public var children: [FilterChild] {
        [FilterChild(role: Self.childRole, node: child), FilterChild(role: Self.testRole, node: test)]
    }

    // MARK: Opening

    /// - Throws: `invalidArgument` for a name without a second colon.
    public static func childName(
        in filename: String, _ options: inout OptionTree
    ) throws(BlockError) -> String {
        guard filename.hasPrefix("\(name):") else { return options.take("x-raw") ?? filename }
        let rest = filename.dropFirst(name.count + 1)
        guard let colon = rest.utf8.firstIndex(of: UInt8(ascii: ":")) else {
            throw BlockError(
                .invalidArgument, "blkverify requires raw copy and original image path", path: filename)
        }
        options[testNameKey] = String(rest[rest.utf8.index(after: colon)...])
        return String(rest[..<colon])
    }

    public static func filename(over names: [String], _ options: OptionTree) -> String? {
        names.count == 2 ? "\(name):\(names[0]):\(names[1])" : nil
    }

    /// - Throws: as ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> VerifyDriver {
        let raw = try request.openChild()
        let test = try request.openChild(
            role: testRole, name: options.take(testNameKey), probing: true, options: &options)
        return VerifyDriver(over: raw, testing: test)
    }

    // MARK: Requests

    /// - Throws: as ``BlockNode/length()``.
    public func length() throws(BlockError) -> Int { try test.length() }

    /// - Throws: `io` where the disks differ; as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = try insideDisk(offset, buffer.byteCount)
        let tested = AlignedBuffer(count: buffer.byteCount)
        // Writers change one disk after the other: none may be between the two. Exclusively, since a child
        // that copies on read wants it so.
        try child.holding(range, exclusive: true) { () throws(BlockError) in
            var (one, other): (BlockError?, BlockError?)
            do throws(BlockError) { try child.read(into: &buffer, at: offset) } catch { one = error }
            do throws(BlockError) {
                var bytes = tested.mutableBytes
                try test.read(into: &bytes, at: offset)
            } catch { other = error }
            try settle("read", range, one, other)
        }
        if let difference = buffer.bytes.firstDifference(from: tested.bytes) {
            throw mismatch("read", range, "contents mismatch at offset \(offset + difference)")
        }
    }

    /// - Throws: `io` where only one disk fails; as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try onBoth("write", offset, bytes.byteCount) { node throws(BlockError) in
            try node.write(bytes, at: offset)
        }
    }

    /// - Throws: `io` where only one disk fails; as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        try onBoth("write", offset, count) { node throws(BlockError) in
            try node.writeZeroes(at: offset, count: count, flags: flags)
        }
    }

    /// - Throws: nothing.
    public func discard(at offset: Int, count: Int) throws(BlockError) {}

    /// - Throws: as ``BlockNode/resize(to:preallocation:)``.
    public func resize(to size: Int, preallocation: Preallocation) throws(BlockError) {
        try test.resize(to: size, preallocation: preallocation)
        try child.resize(to: size, preallocation: preallocation)
    }

    // MARK: Comparing

    /// The bytes of a request, which must be inside the tested disk: a raw file would take others, and
    /// differ.
    private func insideDisk(_ offset: Int, _ count: Int) throws(BlockError) -> Range<Int> {
        let range = try Range.request(offset, count)
        // A file, and a disk that holds another image, grow.
        if test.unfiltered.format == nil || test.settings.holdsImage { return range }
        guard try range.upperBound <= test.length() else {
            throw BlockError(.io, "Input/output error", path: test.filename, offset: offset)
        }
        return range
    }

    private func onBoth(
        _ action: String, _ offset: Int, _ count: Int,
        _ body: (BlockNode) throws(BlockError) -> Void
    ) throws(BlockError) {
        let range = try insideDisk(offset, count)
        try child.holding(range, exclusive: true) { () throws(BlockError) in
            var (one, other): (BlockError?, BlockError?)
            do throws(BlockError) { try body(child) } catch { one = error }
            do throws(BlockError) { try body(test) } catch { other = error }
            try settle(action, range, one, other)
        }
    }

    /// Throws the error of both disks, or that only one of them failed.
    private func settle(
        _ action: String, _ range: Range<Int>, _ one: BlockError?, _ other: BlockError?
    ) throws(BlockError) {
        if let one, other != nil { throw one }
        guard one != nil || other != nil else { return }
        let codes = [one, other].map { error in error.map { -Int($0.errno ?? 5) } ?? 0 }
        throw mismatch(action, range, "return value mismatch \(codes[0]) != \(codes[1])")
    }

    private func mismatch(_ action: String, _ range: Range<Int>, _ what: String) -> BlockError {
        BlockError(
            .io, "blkverify: \(action) offset=\(range.lowerBound) bytes=\(range.count) \(what)",
            path: test.filename, offset: range.lowerBound)
    }
}
