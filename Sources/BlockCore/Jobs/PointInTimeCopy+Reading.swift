import SystemPackage

/// Reading the disk as it was at the moment.
extension PointInTimeCopy {
    /// Fills `buffer` with the disk's bytes of the moment from `offset` on.
    ///
    /// - Throws: `io` past the end of the disk, outside the scope, and once the copy is lost; errors of the
    ///   nodes.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        guard let range = try begin(offset, count) else { return }
        let tickets = lock(range)
        defer { unlock(tickets) }
        try checkIntact()
        try checkReadable(offset..<offset + count)
        var done = 0
        while done < count {
            let (isPending, length) = pending.run(at: offset + done, limit: count - done)
            var part = buffer.slice(done..<done + length)
            if isPending {
                try source.readUnlocked(into: &part, at: offset + done)
            } else {
                try target.read(into: &part, at: offset + done)
            }
            done += length
        }
    }

    /// The run at `offset`: zeroes, or bytes that ``read(into:at:)`` reads.
    ///
    /// - Throws: as ``read(into:at:)``.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        guard let range = try begin(offset, min(limit, size - min(offset, size))) else {
            return Extent(.zero(hostOffset: nil), length: limit)
        }
        let tickets = lock(range)
        defer { unlock(tickets) }
        try checkIntact()
        let (isReadable, inside) = readable.run(at: offset, limit: min(limit, size - offset))
        guard isReadable else { throw .system(.permissionDenied, path: target.filename, offset: offset) }
        let (isPending, length) = pending.run(at: offset, limit: inside)
        let status = try (isPending ? source : target).status(at: offset, limit: length)
        return Extent(
            status.isZero ? .zero(hostOffset: nil) : .encoded(compressed: false), length: status.length)
    }

    /// Gives up whole clusters in a range: they are not copied any more, cannot be read any more, and the
    /// target gives their space back.
    ///
    /// - Throws: `io` past the end of the disk; errors of the target.
    public func giveUp(_ range: Range<Int>) throws(BlockError) {
        guard try begin(range.lowerBound, range.count) != nil else { return }
        let lower = range.lowerBound.roundedUp(to: clusterBytes) ?? size
        let upper = range.upperBound == size ? size : range.upperBound.roundedDown(to: clusterBytes)
        guard lower < upper else { return }
        let ticket = clusters.acquire(lower..<upper, exclusive: true)
        defer { clusters.release(ticket) }
        readable.clear(lower..<upper)
        pending.clear(lower..<upper)
        try target.discard(at: lower, count: upper - lower)
    }

    /// The clusters of a request; `nil` for an empty one.
    private func begin(_ offset: Int, _ count: Int) throws(BlockError) -> Range<Int>? {
        guard offset >= 0, count >= 0, offset <= size, count <= size - offset else {
            throw BlockError(.io, "Input/output error", path: source.filename, offset: offset)
        }
        return wholeClusters(offset..<offset + count)
    }

    private func lock(_ range: Range<Int>) -> (node: Int, clusters: Int) {
        let units = source.format.map { source.clusters(range, $0) } ?? range
        let ticket = source.requests.acquire(units, exclusive: false)
        return (ticket, clusters.acquire(range, exclusive: false))
    }

    private func unlock(_ tickets: (node: Int, clusters: Int)) {
        clusters.release(tickets.clusters)
        source.requests.release(tickets.node)
    }

    private func checkReadable(_ range: Range<Int>) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let (isReadable, length) = readable.run(at: offset, limit: range.upperBound - offset)
            guard isReadable else {
                throw .system(.permissionDenied, path: target.filename, offset: offset)
            }
            offset += length
        }
    }
}
