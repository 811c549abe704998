import BlockCore

/// Stores every written unit compressed: QEMU's `compress`.
///
/// Thread-safe.
///
/// `driver=compress,file.driver=qcow2,file.file.filename=…`. The node below must be an image whose format
/// compresses. Parts of units are completed with what they hold; zeroing whole units and discarding need no
/// compression. A unit may be written again, which QEMU refuses.
public final class CompressDriver: OpenableFilter {
    public static let name = "compress"
    public static let optionsInName: [String]? = []

    public let child: BlockNode
    private let format: any CompressedWriting

    /// - Throws: `unsupported` when the node below does not compress.
    public init(over child: BlockNode) throws(BlockError) {
        guard let format = child.format as? any CompressedWriting else {
            throw BlockError(
                .unsupported,
                "Compression is not supported for underlying format: \(child.driverName)",
                path: child.filename)
        }
        self.child = child
        self.format = format
    }

    /// - Throws: `unsupported` when the node below does not compress; as
    ///   ``FilterRequest/openChild(_:probing:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> CompressDriver {
        try CompressDriver(over: request.openChild())
    }

    public var requestAlignment: Int { format.compressedUnitBytes }

    /// - Throws: as ``BlockNode/writeCompressed(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let unit = format.compressedUnitBytes
        let range = try insideDisk(offset, bytes.byteCount)
        let whole = try range.grown(to: unit)
        for start in stride(from: whole.lowerBound, to: whole.upperBound, by: unit) {
            let part = (start..<start + unit).clamped(to: range)
            try writeUnit(
                at: start, bytes.extracting(part.lowerBound - offset..<part.upperBound - offset),
                at: part.lowerBound)
        }
    }

    /// - Throws: as ``BlockNode/writeCompressed(_:at:)`` for parts of units; as
    ///   ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let unit = format.compressedUnitBytes
        let range = try insideDisk(offset, count)
        // The last unit of the disk may be shorter.
        let end =
            try range.upperBound == child.length() ? range.upperBound : range.upperBound.roundedDown(to: unit)
        let start = min(range.lowerBound.roundedUp(to: unit) ?? end, max(end, range.lowerBound))
        let whole = start..<max(start, end)
        let parts = [range.lowerBound..<whole.lowerBound, whole.upperBound..<range.upperBound]
        let hasParts = parts.contains { !$0.isEmpty }
        if hasParts, flags.contains(.noFallback) {
            throw BlockError(.unsupported, "Operation not supported", path: child.filename, offset: offset)
        }
        try child.writeZeroes(at: whole.lowerBound, count: whole.count, flags: flags)
        for part in parts where !part.isEmpty {
            let zeroes = AlignedBuffer(count: part.count, zeroed: true)
            try write(zeroes.bytes, at: part.lowerBound)
        }
    }

    /// The bytes of a request, which must be inside the disk: it is made in units.
    private func insideDisk(_ offset: Int, _ count: Int) throws(BlockError) -> Range<Int> {
        let range = try Range.request(offset, count)
        guard try range.upperBound <= child.length() else {
            throw BlockError(.io, "Input/output error", path: child.filename, offset: offset)
        }
        return range
    }

    /// Stores the unit at `start` with `bytes` at `offset`, compressed if that makes it smaller.
    private func writeUnit(at start: Int, _ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let count = min(format.compressedUnitBytes, try child.length() - start)
        let unit = AlignedBuffer(count: count)
        let packed = AlignedBuffer(count: format.compressedUnitBytes)
        // No other request may change the rest of the unit between reading and writing it.
        try child.holding(start..<start + count, exclusive: true) { () throws(BlockError) in
            var content = unit.mutableBytes
            if bytes.byteCount < count { try child.read(into: &content, at: start) }
            content.copy(from: bytes, at: offset - start)
            var output = packed.mutableBytes
            guard let size = try format.compress(unit.bytes, into: &output) else {
                return try child.write(unit.bytes, at: start)
            }
            try child.writeCompressed(packed.bytes(0..<size), at: start)
        }
    }
}
