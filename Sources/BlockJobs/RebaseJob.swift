import BlockCore

/// Gives an image another backing file without changing what it reads as.
///
/// Where the new chain differs from the old one, the image first gets a copy of the old contents. When the
/// process is killed at any moment, the image reads as before. While the job runs, nobody else may write to
/// the nodes.
public struct RebaseJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "rebase"

    private let node: BlockNode
    private let backing: BlockNode?
    private let reference: BackingReference?
    private let compress: Bool

    /// - Parameters:
    ///   - node: the image, writable, open with its old chain.
    ///   - backing: the new backing node; `nil` for none. On success the node owns it.
    ///     - reference: the file name and format of the new backing file that the image states.
    ///     - compress: whether the copied contents are stored compressed.
    public init(
        node: BlockNode, backing: BlockNode?, reference: BackingReference?, compress: Bool = false
    ) {
        self.node = node
        self.backing = backing
        self.reference = reference
        self.compress = compress
    }

    public var nodes: [BlockNode] { [node] }

    /// - Throws: `unsupported` when the format has no backing files or no compression; `cancelled`; what
    ///   reading and writing fail with.
    public func work(_ control: JobControl) throws(BlockError) {
        let driver = try LayerCopy.rebasable(node)
        let compressor = try compress ? makeCompressor() : nil
        try LayerCopy.keepingIdentity(of: node) { () throws(BlockError) in
            try copy(compressor, control)
            // The copies have to be durable before the image drops its reference to the old chain.
            try node.flush()
            try driver.changeBacking(to: reference)
        }
        if node.backing !== backing { try LayerCopy.replaceBacking(of: node, with: backing) }
    }

    private func makeCompressor() throws(BlockError) -> UnitCompressor {
        guard let driver = node.format?.asCompressedWriting else {
            throw BlockError(
                .unsupported, "Compression not supported for this file format", path: node.filename)
        }
        return UnitCompressor(driver: driver, keepsZeroes: false)
    }

    private func copy(_ compressor: UnitCompressor?, _ control: JobControl) throws(BlockError) {
        let length = try node.length()
        control.setTotal(length)
        let unit = max(LayerCopy.unitBytes(node), compressor?.unitBytes ?? 1)
        let cutter = ChunkCutter(
            RunCursor(end: length, unit: unit, look: try classifier()),
            maximumCopyBytes: LayerCopy.chunkBytes)
        let work = DifferenceWork(
            node: node, other: backing, otherLength: try backing?.length() ?? 0, unit: unit,
            compressor: compressor,
            writer: PieceWriter(
                node: node, zeroing: backing == nil ? .none : .inThisLayer,
                sharer: compressor == nil && !control.hasSpeedLimit
                    ? SpaceSharer(try SourceDisk([node]), node) : nil),
            scratchBytes: cutter.bufferBytes)
        try ChunkPipeline(cutter: cutter, work: work, workers: LayerCopy.workers).run(control)
    }

    /// Copies runs that the image itself does not store and whose old and new contents may differ.
    private func classifier() throws(BlockError) -> RunCursor.Look {
        let (node, backing) = (node, backing)
        let newLength = try backing?.length() ?? 0
        let shared = try SharedBase.find(node.backing, backing)
        return { (offset, limit) throws(BlockError) in
            let own = try node.layerExtent(at: offset, limit: limit)
            guard own.status == .unallocated else { return (.skip, own.length) }
            let old = try node.status(at: offset, limit: own.length, above: shared?.old)
            if let shared, shared.new === backing { return (old.isPresent ? .copy : .skip, old.length) }
            guard let backing, offset < newLength else {
                return (old.isZero ? .skip : .copy, old.length)
            }
            let reach = min(old.length, newLength - offset)
            let new = try backing.status(at: offset, limit: reach, above: shared?.new)
            let isBelowBoth = shared != nil && !old.isPresent && !new.isPresent
            return (isBelowBoth || old.isZero && new.isZero ? .skip : .copy, new.length)
        }
    }
}

/// Reads runs from a node and from its new backing node, and writes the units that differ to the node.
/// Thread-safe.
struct DifferenceWork: ChunkWork {
    let node: BlockNode
    let other: BlockNode?
    /// The length of `other` in bytes; behind it, zeroes are read.
    let otherLength: Int
    /// Differences are written in whole units of this many bytes.
    let unit: Int
    let compressor: UnitCompressor?
    let writer: PieceWriter
    let scratchBytes: Int

    func prepare(_ chunk: Chunk, _ space: Workspace) throws(BlockError) {
        let read = LayerCopy.reader(node)
        var position = 0
        for run in chunk.runs {
            let data = space.data
            var part = data.mutableBytes(position..<position + run.range.count)
            try read(&part, run.range.lowerBound)
            for range in try differing(run.range, at: position, space) {
                try addPieces(range, at: position + range.lowerBound - run.range.lowerBound, space)
            }
            position += run.range.count
        }
    }

    func commit(_ chunk: Chunk, _ space: Workspace) throws(BlockError) { try writer.write(space) }

    /// The units of `range` in which the two nodes differ; adjacent ones are joined.
    private func differing(
        _ range: Range<Int>, at position: Int, _ space: Workspace
    ) throws(BlockError) -> [Range<Int>] {
        let (data, scratch) = (space.data, space.scratch)
        var part = scratch.mutableBytes(position..<position + range.count)
        try readOther(into: &part, at: range.lowerBound)
        var found: [Range<Int>] = []
        var offset = range.lowerBound
        while offset < range.upperBound {
            let end = min(offset + unit, range.upperBound)
            let here = position + offset - range.lowerBound..<position + end - range.lowerBound
            if !data.bytes(here).hasSameBytes(as: scratch.bytes(here)) {
                if let last = found.last, last.upperBound == offset {
                    found[found.count - 1] = last.lowerBound..<end
                } else {
                    found.append(offset..<end)
                }
            }
            offset = end
        }
        return found
    }

    private func readOther(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let inside = max(0, min(buffer.byteCount, otherLength - offset))
        let count = buffer.byteCount
        var tail = buffer.slice(inside..<count)
        tail.fill()
        guard let other, inside > 0 else { return }
        var head = buffer.slice(0..<inside)
        try LayerCopy.reader(other)(&head, offset)
    }

    private func addPieces(_ range: Range<Int>, at position: Int, _ space: Workspace) throws(BlockError) {
        if let compressor { return try compressor.compress(range, at: position, space) }
        let scanner = ZeroScanner(granularity: unit, sparseBytes: unit)
        let data = space.data
        scanner.scan(data.bytes, range, at: position, into: &space.pieces)
    }
}
