import BlockCore

extension QcowDriver {
    /// The size of one read, in bytes: compressed clusters within it are read together.
    private static let readBytes = 1 << 20

    /// Reads compressed and encrypted clusters.
    ///
    /// - Throws: `io`, `corrupt`, `limit`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        var done = 0
        while done < buffer.byteCount {
            let start = offset + done
            let inside = start & (clusterBytes - 1)
            let limit = buffer.byteCount - done
            let (run, places) = try session.withLock {
                (tables) throws(BlockError) -> ((first: QcowEntry, count: Int), [Range<Int>]) in
                let run = try tables.clusterRun(at: start, limit: tables.clusters(inside, limit))
                guard case .compressed = run.first else { return (run, []) }
                return (run, try tables.compressedPlaces(at: start, count: run.count))
            }
            let count = min(buffer.byteCount - done, run.count << clusterBits - inside)
            var part = buffer.slice(done..<done + count)
            switch run.first {
            case .unallocated: part.fill()
            case .data(let host): try data.read(into: &part, at: host + inside, guest: start)
            case .compressed: try readCompressed(places, into: &part, inside: inside)
            }
            done += count
        }
    }

    /// Fills `buffer` from the clusters at `places`, starting `inside` bytes into the first one.
    private func readCompressed(
        _ places: [Range<Int>], into buffer: inout MutableRawSpan, inside: Int
    ) throws(BlockError) {
        var first = 0
        while first < places.count {
            var last = first + 1
            while last < places.count, places[last].lowerBound >= places[last - 1].upperBound,
                places[last].upperBound - places[first].lowerBound <= Self.readBytes
            {
                last += 1
            }
            let base = places[first].lowerBound
            let payloads = AlignedBuffer(count: places[last - 1].upperBound - base)
            var bytes = payloads.mutableBytes
            try file.read(into: &bytes, at: base)
            for index in first..<last {
                let place = places[index]
                let payload = payloads.bytes(place.lowerBound - base..<place.upperBound - base)
                try inflate(payload, index << clusterBits - inside, into: &buffer)
            }
            first = last
        }
    }

    /// Decompresses a cluster to `position` of `buffer`, which may hold only a part of it.
    private func inflate(
        _ payload: RawSpan, _ position: Int, into buffer: inout MutableRawSpan
    ) throws(BlockError) {
        let range = max(0, position)..<min(buffer.byteCount, position + clusterBytes)
        guard !range.isEmpty else { return }
        if range.count == clusterBytes {
            var target = buffer.slice(range)
            return try Deflate.decompress(payload, into: &target)
        }
        let cluster = AlignedBuffer(count: clusterBytes)
        var bytes = cluster.mutableBytes
        try Deflate.decompress(payload, into: &bytes)
        buffer.copy(
            from: cluster.bytes(range.lowerBound - position..<range.upperBound - position),
            at: range.lowerBound)
    }
}

extension QcowState {
    /// The places of the compressed clusters from that of `guest` on; their entries are in one table.
    func compressedPlaces(at guest: Int, count: Int) throws(BlockError) -> [Range<Int>] {
        guard let (slot, first, most) = try entries(at: guest, limit: count) else { return [] }
        var places: [Range<Int>] = []
        for index in 0..<most {
            let entry = QcowEntry(entry(slot, first + index), clusterBits: header.clusterBits)
            guard case .compressed(let place) = entry else { break }
            guard isCompressedPlace(place) else {
                if place.lowerBound >= Qcow.headerBytes, place.upperBound > end {
                    throw try file.cutError(
                        "A compressed cluster", end: place.upperBound, at: place.lowerBound)
                }
                throw corrupt("A compressed cluster is misplaced (offset \(place.lowerBound))", at: guest)
            }
            places.append(place)
        }
        return places
    }
}
