import BlockCore

extension Qcow2Driver: CompressedWriting {
    public var compressedUnitBytes: Int { layout.clusterSize }

    var compressionType: Qcow2.CompressionType { metadata.withLock { $0.header.compressionType } }

    public func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        if unit.byteCount < layout.clusterSize {
            let padded = AlignedBuffer(count: layout.clusterSize, zeroed: true)
            var bytes = padded.mutableBytes
            bytes.copy(from: unit)
            return try compressCluster(padded.bytes, into: &output)
        }
        return try compressCluster(unit, into: &output)
    }

    private func compressCluster(_ cluster: RawSpan, into output: inout MutableRawSpan) throws(BlockError)
        -> Int?
    {
        var room = output.slice(0..<min(output.byteCount, layout.clusterSize - 1))
        switch compressionType {
        case .zlib: return try Deflate.compress(cluster, into: &room)
        case .zstd: return try Zstandard.compress(cluster, into: &room)
        }
    }

    public func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        guard !data.isExternal else {
            throw BlockError(.unsupported, "Operation not supported", path: file.filename)
        }
        guard !isEncrypted else {
            throw BlockError(
                .unsupported, "Compression and encryption not supported at the same time",
                path: file.filename)
        }
        guard payload.byteCount > 0, payload.byteCount < layout.clusterSize, layout.isAligned(offset) else {
            throw BlockError(.invalidArgument, "Compressed writes are of whole clusters", path: file.filename)
        }
        let unit = offset..<offset + layout.clusterSize
        let grant = try metadata.begin(unit) { tables throws(BlockError) -> WriteGrant in
            try tables.beginLazyRefcounts()
            // The table is made before the data, so that the file can end in the middle of a cluster.
            _ = try tables.changeableL2Slot(GuestOffset(offset))
            let place = try tables.allocateBytes(payload.byteCount)
            return WriteGrant(
                new: unit, units: unit, at: place.hostOffset.bytes, in: file, rest: .keep,
                tag: Qcow2Space.compressed(bytes: place.size))
        }
        do throws(BlockError) {
            file.emit(.writeCompressed)
            try file.write(payload, at: grant.hostOffset)
        } catch {
            metadata.giveBack(grant)
            throw error
        }
        try metadata.link(grant)
    }
}

/// Host bytes for one compressed cluster.
struct CompressedPlace {
    var hostOffset: HostOffset
    var size: Int
}

extension Qcow2State {
    /// Finds room for `size` bytes (less than a cluster): behind the last compressed cluster where it fits.
    func allocateBytes(_ size: Int) throws(BlockError) -> CompressedPlace {
        file.emit(.clusterAllocateBytes)
        try beginLazyRefcounts()
        let store = try refcounts()
        let place: CompressedPlace
        if let room = try roomBehindLast(size, store) {
            place = room
        } else {
            try padCompressedEnd()
            place = CompressedPlace(hostOffset: layout.offset(of: try store.allocate(1)), size: size)
        }
        freeByteOffset = place.hostOffset + size
        if layout.isAligned(freeByteOffset) { freeByteOffset = .zero }
        return place
    }

    /// Room in the partly used cluster, continued into a new one if that is adjacent.
    private func roomBehindLast(_ size: Int, _ store: Qcow2Allocator) throws(BlockError) -> CompressedPlace? {
        guard freeByteOffset > .zero else { return nil }
        let current = layout.cluster(at: freeByteOffset)
        let count = try store.refcount(of: current)
        guard count > 0, count < layout.maximumRefcount else { return nil }
        let room = layout.clusterSize - freeByteOffset.bytes & (layout.clusterSize - 1)
        guard size > room else {
            try store.increment(current)
            return CompressedPlace(hostOffset: freeByteOffset, size: size)
        }
        var start = freeByteOffset
        _ = try fillingNewClusters(1) { next throws(BlockError) in
            if layout.cluster(at: HostOffset(next)) == current + 1 { return try store.increment(current) }
            try padCompressedEnd()
            start = HostOffset(next)
        }
        return CompressedPlace(hostOffset: start, size: size)
    }

    /// Pads a file that ends with compressed data to a whole sector: the entry counts sectors, and some
    /// readers (7-Zip) require all of them. No other write uses these bytes: the next data is placed behind
    /// them.
    func padCompressedEnd() throws(BlockError) {
        let end = freeByteOffset.bytes
        guard let whole = end.roundedUp(to: Qcow2.sectorBytes), whole > end, try file.length() < whole else {
            return
        }
        let zeroes = [UInt8](repeating: 0, count: whole - end)
        try file.write(zeroes.span.bytes, at: end)
        freeByteOffset = layout.isAligned(whole) ? .zero : HostOffset(whole)
    }

    /// Points a cluster's entry to its compressed bytes.
    func linkCompressed(_ grant: inout WriteGrant) throws(BlockError) {
        let place = CompressedPlace(hostOffset: HostOffset(grant.hostOffset), size: grant.tag >> 2)
        try set(place, at: GuestOffset(grant.units.lowerBound))
        grant.tag = Qcow2Space.inPlace
        if hasTooManyFrees { try commit() }
    }

    private func set(_ place: CompressedPlace, at guest: GuestOffset) throws(BlockError) {
        file.emit(.l2UpdateCompressed)
        hasUnflushedWrites = true
        guard let entry = L2Entry.compressed(at: place.hostOffset, size: place.size, layout) else {
            throw BlockError(
                .noSpace, "The image file is too large for compressed clusters", path: file.filename)
        }
        let (slot, index) = try changeableL2Slot(guest)
        let old = cachedEntry(slot, index)
        setCachedEntry(slot, index, to: entry)
        release(old)
    }

    /// Frees the bytes of a grant, to which no entry ever referred.
    func giveBackCompressed(_ grant: WriteGrant) {
        freeByteOffset = .zero
        guard let store = try? refcounts() else { return }
        let first = layout.cluster(at: HostOffset(grant.hostOffset))
        let last = layout.cluster(at: HostOffset(grant.hostOffset + grant.tag >> 2 - 1))
        store.giveBack(first..<last + 1)
    }
}
