/// Copies clusters of one node's disk to another node. The caller sees to it that nothing changes them in the
/// source meanwhile. An immutable value, to be used from many threads.
struct ClusterCopier: Sendable {
    /// The most bytes that are read at once.
    static let bufferBytes = Int.mib(1)

    /// A node without filters, read without waiting for other requests.
    let source: BlockNode
    let target: BlockNode
    /// A power of two; ranges begin at its multiples.
    let clusterBytes: Int
    /// The end of the disk, in bytes.
    let end: Int
    /// Whether clusters of which the source's own layer stores nothing are left out.
    let layerOnly: Bool
    /// Whether zeroes get a mark of the target's format even where the target reads as zeroes without: a
    /// backing file that it gets later must not show through.
    let marksZeroes: Bool
    /// Compresses the data; `nil` stores them as they are.
    let compressor: (any CompressedWriting)?

    /// A buffer for ``copy(_:_:)``.
    func makeBuffer(for range: Range<Int>) -> AlignedBuffer {
        AlignedBuffer(count: max(compressor == nil ? 0 : clusterBytes, min(range.count, Self.bufferBytes)))
    }

    /// Copies the first clusters of `range`, whose ends are cluster borders or the end of the disk.
    ///
    /// - Returns: the number of bytes done, in whole clusters.
    func copy(_ range: Range<Int>, _ buffer: AlignedBuffer) throws(BlockError) -> Int {
        var range = range
        if layerOnly {
            let (isStored, part) = try storedClusters(of: range)
            guard isStored else { return part.count }
            range = part
        }
        let status = try source.status(at: range.lowerBound, limit: range.count)
        if status.isZero {
            let whole = clusters(in: range, within: status.length)
            if !whole.isEmpty {
                try zero(whole)
                return whole.count
            }
        }
        let part = clusters(of: range, holding: min(status.length, max(buffer.count, clusterBytes)))
        if let compressor { try compress(part, compressor, buffer) } else { try copyRuns(part, buffer) }
        return part.count
    }

    // MARK: Whole clusters

    /// The clusters at the start of `range` that lie in its first `length` bytes.
    private func clusters(in range: Range<Int>, within length: Int) -> Range<Int> {
        let stop = range.lowerBound + min(length, range.count)
        return range.lowerBound..<(stop == range.upperBound ? stop : stop.roundedDown(to: clusterBytes))
    }

    /// The clusters at the start of `range` that have a byte of its first `length` bytes.
    private func clusters(of range: Range<Int>, holding length: Int) -> Range<Int> {
        let stop = range.lowerBound + min(length, range.count)
        return range.lowerBound..<min(range.upperBound, stop.roundedUp(to: clusterBytes) ?? Int.max)
    }

    /// The clusters at the start of `range` of which the source's layer stores something; or nothing.
    private func storedClusters(
        of range: Range<Int>
    ) throws(BlockError) -> (isStored: Bool, part: Range<Int>) {
        let first = try source.layerExtent(at: range.lowerBound, limit: range.count)
        if first.status != .unallocated { return (true, clusters(of: range, holding: first.length)) }
        let empty = clusters(in: range, within: first.length)
        if !empty.isEmpty { return (false, empty) }
        let cluster = clusters(of: range, holding: 1)
        var offset = cluster.lowerBound + first.length
        while offset < cluster.upperBound {
            let own = try source.layerExtent(at: offset, limit: cluster.upperBound - offset)
            if own.status != .unallocated { return (true, cluster) }
            offset += own.length
        }
        return (false, cluster)
    }

    // MARK: Bytes

    /// Copies data as data and zeroes as zeroes.
    private func copyRuns(_ range: Range<Int>, _ buffer: AlignedBuffer) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let status = try source.status(at: offset, limit: range.upperBound - offset)
            let count = status.isZero ? status.length : min(status.length, buffer.count)
            if status.isZero {
                try zero(offset..<offset + count)
            } else {
                try read(offset..<offset + count, buffer)
                try write(buffer.bytes(0..<count), at: offset)
            }
            offset += count
        }
    }

    private func read(_ range: Range<Int>, _ buffer: AlignedBuffer) throws(BlockError) {
        var part = buffer.mutableBytes(0..<range.count)
        do throws(BlockError) { try source.readUnlocked(into: &part, at: range.lowerBound) } catch {
            throw error.prefixed("error while reading at byte \(range.lowerBound)")
        }
    }

    private func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        do throws(BlockError) { try target.write(bytes, at: offset) } catch {
            throw error.prefixed("error while writing at byte \(offset)")
        }
    }

    /// Compresses the units of whole clusters.
    private func compress(
        _ range: Range<Int>, _ driver: any CompressedWriting, _ buffer: AlignedBuffer
    ) throws(BlockError) {
        let unit = driver.compressedUnitBytes
        let scratch = AlignedBuffer(count: unit)
        for start in stride(from: range.lowerBound, to: range.upperBound, by: unit) {
            let piece = start..<min(range.upperBound, start + unit)
            try read(piece, buffer)
            let bytes = buffer.bytes(0..<piece.count)
            if bytes.isZero {
                try zero(piece)
                continue
            }
            var output = scratch.mutableBytes
            let isWhole = piece.count == unit || piece.upperBound == driver.virtualSize
            guard isWhole, let count = try driver.compress(bytes, into: &output), count < piece.count else {
                try write(bytes, at: start)
                continue
            }
            try target.writeCompressed(scratch.bytes(0..<count), at: start)
        }
    }

    /// Makes `range` of the target read as zeroes, where it does not.
    private func zero(_ range: Range<Int>) throws(BlockError) {
        let marks = marksZeroes && target.marksZeroes
        var offset = range.lowerBound
        while offset < range.upperBound {
            let limit = range.upperBound - offset
            let status = try target.status(at: offset, limit: limit)
            var length = status.length
            var isDone = status.isZero
            if marks, isDone {
                let own = try target.layerExtent(at: offset, limit: length)
                length = own.length
                isDone = own.status != .unallocated
            }
            if !isDone {
                do throws(BlockError) { try target.writeZeroes(at: offset, count: length) } catch {
                    throw error.prefixed("error while writing at byte \(offset)")
                }
            }
            offset += length
        }
    }
}
