import BlockCore

extension Qcow2Driver {
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        var extent = try place(at: offset, limit: limit)
        guard isEncrypted else { return extent }
        // The bytes there are encrypted, not the guest's.
        extent.reservedOffset = nil
        switch extent.status {
        case .data: extent.status = .encoded(compressed: false)
        case .zero: extent.status = .zero(hostOffset: nil)
        case .unallocated, .encoded: break
        }
        return extent
    }

    /// Where the bytes at `offset` are, encrypted or not.
    func place(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try metadata.withLock { tables throws(BlockError) in try tables.run(at: offset, limit: limit) }
    }

    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        guard isEncrypted else { return try readCompressed(into: &buffer, at: offset) }
        guard data.encryption != nil else {
            throw BlockError(.denied, "The image was opened without its key", path: file.filename)
        }
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let extent = try place(at: offset + done, limit: count - done)
            let run = min(max(extent.length, 1), count - done)
            var part = buffer.slice(done..<done + run)
            if case .data(let hostOffset) = extent.status {
                file.emit(.readData)
                try data.read(into: &part, at: hostOffset, guest: offset + done)
            } else {
                try readCompressed(into: &part, at: offset + done)
            }
            done += run
        }
    }

    private func readCompressed(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let batch = try compressedBatch(at: offset + done, limit: count - done)
            file.emit(.readCompressed)
            let start = batch.hostRange.lowerBound.bytes
            let bytes = try file.readBuffer(at: start, count: batch.hostRange.count)
            let stored = try file.storedCount(at: start, count: bytes.count)
            for cluster in batch.clusters {
                let inside = (offset + done) & (layout.clusterSize - 1)
                let part = min(layout.clusterSize - inside, count - done)
                var target = buffer.slice(done..<done + part)
                let payload = min(cluster.lowerBound - batch.hostRange.lowerBound, stored)
                let held = max(0, min(cluster.count, stored - payload))
                do throws(BlockError) {
                    try decompress(
                        bytes.bytes(payload..<payload + held), into: &target, from: inside,
                        guestOffset: offset + done)
                } catch {
                    // The file may end inside the last sector: entries count whole sectors.
                    guard held < cluster.count else { throw error }
                    throw try file.cutError(
                        "A compressed cluster", end: cluster.upperBound.bytes, at: cluster.lowerBound.bytes)
                }
                done += part
                if done == count { break }
            }
        }
    }

    /// Compressed clusters that are adjacent for the guest and close together in the file.
    private struct CompressedBatch {
        var hostRange: Range<HostOffset>
        var clusters: [Range<HostOffset>]
        static let maximumBytes = 2 << 20
        static let maximumGap = 65536
    }

    private func compressedBatch(at offset: Int, limit: Int) throws(BlockError) -> CompressedBatch {
        try metadata.withLock { tables throws(BlockError) -> CompressedBatch in
            let first = try tables.compressedRange(at: GuestOffset(offset))
            var batch = CompressedBatch(hostRange: first, clusters: [first])
            var next = layout.roundedDown(offset) + layout.clusterSize
            while next < offset + limit {
                let range = try tables.compressedRange(at: GuestOffset(next))
                let start = min(batch.hostRange.lowerBound, range.lowerBound)
                let union = start..<max(batch.hostRange.upperBound, range.upperBound)
                guard union.count <= CompressedBatch.maximumBytes,
                    union.count <= batch.hostRange.count + range.count + CompressedBatch.maximumGap
                else { break }
                batch.hostRange = union
                batch.clusters.append(range)
                next += layout.clusterSize
            }
            return batch
        }
    }

    /// Decompresses one cluster, and copies its bytes from `inside` on to `target`.
    private func decompress(
        _ payload: RawSpan, into target: inout MutableRawSpan, from inside: Int, guestOffset: Int
    ) throws(BlockError) {
        do throws(BlockError) {
            if inside == 0 && target.byteCount == layout.clusterSize {
                return try inflate(payload, into: &target)
            }
            let cluster = AlignedBuffer(count: layout.clusterSize)
            var whole = cluster.mutableBytes
            try inflate(payload, into: &whole)
            target.copy(from: cluster.bytes(inside..<inside + target.byteCount))
        } catch {
            throw BlockError(
                error.kind, "\(error.message) (cluster at guest offset \(layout.roundedDown(guestOffset)))",
                path: file.filename, offset: guestOffset)
        }
    }

    private func inflate(_ payload: RawSpan, into cluster: inout MutableRawSpan) throws(BlockError) {
        switch compressionType {
        case .zlib: try Deflate.decompress(payload, into: &cluster)
        case .zstd: try Zstandard.decompress(payload, into: &cluster)
        }
    }
}

extension BlockNode {
    /// Reads into a new buffer.
    func readBuffer(at offset: Int, count: Int) throws(BlockError) -> AlignedBuffer {
        let buffer = AlignedBuffer(count: count)
        var bytes = buffer.mutableBytes
        try read(into: &bytes, at: offset)
        return buffer
    }
}

extension Qcow2State {
    /// The guest bytes from `guest` on without L2 tables; the search ends a little behind `limit` bytes.
    func unmappedRun(_ guest: GuestOffset, limit: Int) -> Int {
        let span = layout.guestBytesPerL2Table
        var index = layout.l1Index(of: guest) + 1
        let last = min(l1.count, index + limit / span + 1)
        while index < last, l1[index] & L2Entry.offsetMask == 0 { index += 1 }
        let (end, overflow) = index.multipliedReportingOverflow(by: span)
        return (overflow || index >= l1.count ? Int.max : end) - guest.bytes
    }

    /// Where the bytes at `offset` are, encrypted or not.
    func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let guest = GuestOffset(offset)
        guard let table = try l2TableOffset(guest) else {
            return Extent(.unallocated, length: min(limit, unmappedRun(guest, limit: limit)))
        }
        return try extent(at: offset, limit: limit, table: table)
    }

    /// The run of equal entries at `offset`, within one slice of its L2 table.
    func extent(at offset: Int, limit: Int, table: HostOffset) throws(BlockError) -> Extent {
        if layout.hasSubclusters { return try subclusterExtent(at: offset, limit: limit, table: table) }
        let (slot, first) = try l2Slot(table: table, index: layout.l2Index(of: GuestOffset(offset)))
        let buffer = l2Cache.bytes(of: slot)
        let slice = buffer.bytes
        let entry = L2Entry(raw: slice.bigEndian(at: first &* 8) ?? 0)
        let kind = entry.kind(layout)
        let inside = offset & (layout.clusterSize - 1)
        let perSlice = l2Cache.sliceSize / 8
        let wanted = layout.clusters(
            min(inside + min(limit, Int.max - inside), perSlice << layout.clusterBits))
        let last = min(first + wanted, perSlice)
        let keepsPlace = kind == .data || kind == .zeroAllocated
        if keepsPlace { try checkDataOffset(entry, guest: GuestOffset(offset - inside)) }
        var index = first + 1
        while index < last {
            let next = L2Entry(raw: slice.bigEndian(at: index &* 8) ?? 0)
            guard next.kind(layout) == kind else { break }
            if keepsPlace, next.hostOffset != entry.hostOffset + (index - first) << layout.clusterBits {
                break
            }
            index += 1
        }
        let length = min(limit, (index - first) << layout.clusterBits - inside)
        return Extent(status(kind, host: entry.hostOffset + inside), length: length, child: data.child)
    }

    private func status(_ kind: L2Entry.Kind, host: HostOffset) -> Extent.Status {
        switch kind {
        case .unallocated: .unallocated
        case .zeroPlain: .zero(hostOffset: nil)
        case .zeroAllocated: .zero(hostOffset: host.bytes)
        case .data: .data(hostOffset: host.bytes)
        case .compressed: .encoded(compressed: true)
        }
    }

    /// Checks that data starts at a cluster; in a data file, at its guest offset.
    ///
    /// - Parameter guest: where the guest cluster of `entry` starts.
    func checkDataOffset(_ entry: L2Entry, guest: GuestOffset) throws(BlockError) {
        let host = entry.hostOffset
        guard layout.isAligned(host) else { throw corrupt("Data cluster offset 0x\(hex(host)) unaligned") }
        guard !data.isExternal || host.bytes == guest.bytes else {
            throw corrupt(
                "Cluster offset 0x\(hex(host)) in the data file does not match the guest offset "
                    + "0x\(hex(guest.bytes))")
        }
    }

    /// The host bytes of the compressed cluster at a guest offset.
    func compressedRange(at guest: GuestOffset) throws(BlockError) -> Range<HostOffset> {
        let entry = try entry(at: guest)
        guard entry.isCompressed else { throw corrupt("The cluster is not compressed any more") }
        guard !data.isExternal else { throw corrupt("An image with a data file has a compressed cluster") }
        return entry.compressedRange(layout)
    }
}
