/// Reading the backing nodes below a layer.
extension BlockNode {
    /// Reads bytes that are unallocated in this layer from the layers below it; bytes past the end of those
    /// are zeroes.
    ///
    /// The layers being read are kept in an array, not on the stack: a long chain would overflow it.
    func readBelow(into part: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        var visits: [LayerVisit] = []
        defer { for visit in visits { visit.leave() } }
        let count = part.byteCount
        var done = 0
        while done < count {
            guard let visit = visits.last else {
                let step = try stepDown(into: &part, done..<count, at: offset)
                done += step.bytes
                if let next = step.visit { visits.append(next) }
                continue
            }
            if done == visit.end {
                visits.removeLast().leave(.done)
                continue
            }
            let extent = try visit.driver.extent(at: offset + done, limit: visit.end - done)
            let run = min(max(extent.length, 1), visit.end - done)
            if extent.status == .unallocated {
                let step = try visit.node.stepDown(into: &part, done..<done + run, at: offset)
                done += step.bytes
                if let next = step.visit { visits.append(next) }
            } else {
                var piece = part.slice(done..<done + run)
                try visit.node.read(extent, visit.driver, into: &piece, at: offset + done)
                done += run
            }
        }
        while let visit = visits.popLast() { visit.leave(.done) }
    }

    /// Reads `range` of `part`, unallocated in this layer, as far as that needs no map of the layer below.
    ///
    /// - Parameter offset: the guest offset of the start of `part`.
    /// - Returns: how many bytes were read, or, with 0 bytes, a visit to the layer below.
    private func stepDown(
        into part: inout MutableRawSpan, _ range: Range<Int>, at offset: Int
    ) throws(BlockError) -> (bytes: Int, visit: LayerVisit?) {
        var inside = 0
        let below = backing
        if let below { inside = max(0, min(range.count, try below.length() - (offset + range.lowerBound))) }
        guard let below, inside > 0 else {
            var piece = part.slice(range)
            piece.fill()
            return (range.count, nil)
        }
        file?.emit(.readBacking)
        let end = range.lowerBound + inside
        if case .format(let driver) = below.layer {
            let guest = offset + range.lowerBound
            return (0, try below.beginVisit(driver, guest..<guest + inside, end: end))
        }
        var piece = part.slice(range.lowerBound..<end)
        try below.read(into: &piece, at: offset + range.lowerBound)
        return (inside, nil)
    }

    private func beginVisit(
        _ driver: any FormatDriver, _ range: Range<Int>, end: Int
    ) throws(BlockError) -> LayerVisit {
        var request = begin(.read, at: range.lowerBound, count: range.count)
        defer { self.end(request) }
        if copiesOnRead { try copyUp(range, driver) }
        try passGate(.read, range.count)
        let ticket = beginReading(range)
        do throws(BlockError) { try checkOpen() } catch {
            endReading(ticket)
            throw error
        }
        let visit = LayerVisit(node: self, driver: driver, ticket: ticket, request: request, end: end)
        request.outcome = .uncounted
        return visit
    }
}

/// A read of one layer on the way down a chain.
private struct LayerVisit {
    var node: BlockNode
    var driver: any FormatDriver
    var ticket: Int?
    var request: NodeRequest
    /// One past the last byte of this visit, as an offset in the buffer of the whole read.
    var end: Int

    /// Ends the read of this layer.
    func leave(_ outcome: NodeRequest.Outcome = .failed) {
        node.endReading(ticket)
        var request = request
        request.outcome = outcome
        node.end(request)
    }
}
