import Synchronization

extension BlockNode {
    /// The status of the chain's bytes at `offset`: one run of at most `limit` bytes.
    ///
    /// - Parameters:
    ///   - base: a node of the chain: only the layers above it count, and a run that none of them holds is
    ///     not present.
    ///   - isForMap: whether to apply ``FormatDriver/mapStyle``.
    /// - Throws: `io`, `corrupt`.
    /// - Complexity: O(*layers of the chain*).
    public func status(
        at offset: Int, limit: Int, above base: BlockNode? = nil, isForMap: Bool = false
    ) throws(BlockError) -> ChainStatus {
        while true {
            var layer = self
            do throws(BlockError) {
                return try status(at: offset, limit: limit, above: base, isForMap: isForMap, &layer)
            } catch {
                // A job that ended meanwhile may have dropped and closed the layer.
                let isGone = layer.isClosed || layer.unfiltered.isClosed
                guard isGone, !chain.contains(where: { $0 === layer }) else { throw error }
            }
        }
    }

    /// - Parameter layer: the layer that was looked at last.
    private func status(
        at offset: Int, limit: Int, above base: BlockNode?, isForMap: Bool, _ layer: inout BlockNode
    ) throws(BlockError) -> ChainStatus {
        var remaining = limit
        var depth = 0
        guard base !== self else {
            return ChainStatus(length: limit, isZero: false, isData: false, isPresent: false, depth: 0)
        }
        while true {
            let extent = try layer.layerExtent(at: offset, limit: remaining)
            try layer.checkOpen()
            remaining = min(remaining, extent.length)
            // The place is one in the file of the format's node: filters are no layers.
            let holder = layer.unfiltered
            if extent.status != .unallocated {
                let answer = try holder.resolve(
                    extent, length: remaining, depth: depth,
                    showsHoles: !isForMap || holder.format?.mapStyle.contains(.unitsAreWhole) != true)
                // Nothing that a closed layer or its files answer is to be trusted.
                try layer.checkOpen()
                try holder.checkOpen()
                return answer
            }
            guard let next = layer.backing, next !== base else {
                let isPresent = isForMap && holder.format?.mapStyle.contains(.allIsPresent) == true
                var answer = ChainStatus(
                    length: remaining, isZero: layer.backing == nil, isData: false,
                    isPresent: isPresent && layer.backing == nil, depth: depth)
                holder.place(extent.reservedOffset, extent, in: &answer)
                return answer
            }
            let length = try next.length()
            if offset >= length {
                // Bytes past the end of a short backing file are zeroes, and belong to this layer.
                var answer = ChainStatus(
                    length: remaining, isZero: true, isData: false, isPresent: true, depth: depth)
                answer.isPastBacking = true
                holder.place(extent.reservedOffset, extent, in: &answer)
                return answer
            }
            remaining = min(remaining, length - offset)
            layer = next
            depth += 1
        }
    }

    /// The run at `offset` in this layer alone, at most `limit` bytes long.
    ///
    /// - Throws: `corrupt`, `io`.
    public func layerExtent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let extent =
            switch layer {
            case .storage(let driver): try openStorage(driver).extent(at: offset, limit: limit)
            case .format(let driver): try driver.extent(at: offset, limit: limit)
            case .filter(let driver): try driver.extent(at: offset, limit: limit)
            }
        guard extent.length > 0 else {
            throw BlockError(.corrupt, "The image maps an empty range", path: filename, offset: offset)
        }
        var clipped = extent
        clipped.length = min(extent.length, limit)
        return clipped
    }

    /// The chain's status for an allocated extent of this layer; holes in the file read as zeroes.
    private func resolve(
        _ extent: Extent, length: Int, depth: Int, showsHoles: Bool
    ) throws(BlockError) -> ChainStatus {
        var answer = ChainStatus(length: length, isZero: false, isData: true, isPresent: true, depth: depth)
        switch extent.status {
        case .data(let hostOffset):
            let child = children.indices.contains(extent.child) ? children[extent.child] : nil
            answer.hostOffset = hostOffset
            answer.holder = child ?? self
            try clip(&answer, extent, hostOffset)
            if answer.isLost { return answer }
            if let child, showsHoles, format?.dataMayBeHoles == true {
                try refine(&answer, child, hostOffset)
            }
        case .zero(let hostOffset):
            answer.isZero = true
            answer.isData = false
            place(hostOffset, extent, in: &answer)
        case .encoded(let compressed): answer.isCompressed = compressed
        case .unallocated: break
        }
        return answer
    }

    /// Ends a run where the file ends; bytes behind its end are lost.
    private func clip(_ answer: inout ChainStatus, _ extent: Extent, _ hostOffset: Int) throws(BlockError) {
        guard let driver = format, children.indices.contains(extent.child) else { return }
        let readable = try readableCount(hostOffset, answer.length, extent.child, driver)
        if readable == 0 { answer.isLost = true } else { answer.length = readable }
    }

    /// Sets the place of space that is reserved for bytes that are not stored.
    private func place(_ hostOffset: Int?, _ extent: Extent, in answer: inout ChainStatus) {
        guard let hostOffset else { return }
        answer.hostOffset = hostOffset
        answer.holder = children.indices.contains(extent.child) ? children[extent.child] : self
    }

    /// The file's length; without asking the system, the last known length, when the range is inside it.
    ///
    /// A file that was shortened meanwhile reads as zeroes there, so the range can still be read.
    func lengthCovering(_ offset: Int, _ count: Int) throws(BlockError) -> Int {
        let seen = seenLength.load(ordering: .relaxed)
        if count <= seen, offset <= seen - count { return seen }
        let length = try length()
        seenLength.store(length, ordering: .relaxed)
        return length
    }

    /// Data in a hole of the file below reads as zeroes, but an entry of the format stays data.
    private func refine(_ answer: inout ChainStatus, _ child: BlockNode, _ hostOffset: Int) throws(BlockError)
    {
        let end = try child.lengthCovering(hostOffset, answer.length)
        guard hostOffset < end else {
            answer.isZero = true
            answer.isData = format?.isTransparent != true
            return
        }
        let below = try child.status(at: hostOffset, limit: min(answer.length, end - hostOffset))
        answer.length = min(answer.length, below.length)
        answer.isZero = below.isZero
        if format?.isTransparent == true { answer.isData = below.isData }
        answer.hostOffset = below.hostOffset ?? answer.hostOffset
    }
}
