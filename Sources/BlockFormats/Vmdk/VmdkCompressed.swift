import BlockCore

/// Compressed grains: each begins at a sector with a ``Vmdk/Marker``, which a zlib stream (RFC 1950) follows.
enum VmdkGrainCodec {
    /// The largest compressed grain, in bytes: zlib's result for incompressible bytes, with a margin.
    static func maximumBytes(grainBytes: Int) -> Int { grainBytes + grainBytes / 8 + 1024 }

    /// A grain as stored: marker, compressed bytes and padding up to a sector.
    static func stored(_ payload: RawSpan, guestSector: Int) -> AlignedBuffer {
        let buffer = AlignedBuffer(count: storedBytes(ofPayload: payload.byteCount), zeroed: true)
        let start = marker(payload, guestSector: guestSector)
        var span = buffer.mutableBytes
        span.copy(from: start.span.bytes)
        span.copy(from: payload, at: Vmdk.Marker.grainHeaderBytes)
        return buffer
    }

    /// The size in the file of a grain with `count` compressed bytes: whole sectors, in bytes.
    static func storedBytes(ofPayload count: Int) -> Int {
        let bytes = Vmdk.Marker.grainHeaderBytes + count
        return bytes.roundedUp(to: Vmdk.sectorBytes) ?? bytes
    }

    /// The marker before compressed bytes.
    static func marker(_ payload: RawSpan, guestSector: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Vmdk.Marker.grainHeaderBytes)
        Vmdk.Marker.sectorField.store(UInt64(guestSector), in: &bytes)
        Vmdk.Marker.sizeField.store(UInt64(payload.byteCount), in: &bytes)
        return bytes
    }

    /// The stored size in bytes of the compressed grain whose marker is at the start of `bytes`, limited to
    /// valid sizes.
    static func storedBytes(_ bytes: RawSpan, _ grainBytes: Int) -> Int {
        let size = Int(truncatingIfNeeded: Vmdk.Marker.sizeField.number(in: bytes))
        return Vmdk.Marker.grainHeaderBytes + min(size, maximumBytes(grainBytes: grainBytes))
    }

    /// Compresses a grain, even if it does not become smaller.
    static func encode(_ grain: RawSpan) throws(BlockError) -> [UInt8] {
        let buffer = AlignedBuffer(count: maximumBytes(grainBytes: grain.byteCount))
        var output = buffer.mutableBytes
        guard let count = try Deflate.compressZlib(grain, into: &output) else {
            throw BlockError(.limit, "A grain became too large when it was compressed")
        }
        return buffer.bytes(0..<count).array
    }

    /// Decompresses the grain whose marker is at the start of `bytes`.
    ///
    /// - Throws: `corrupt` when the marker belongs to another grain, or states more bytes than there are.
    static func decode(
        _ bytes: RawSpan, into grain: inout MutableRawSpan, guestSector: Int
    ) throws(BlockError) {
        let size = Int(truncatingIfNeeded: Vmdk.Marker.sizeField.number(in: bytes))
        let start = Vmdk.Marker.grainHeaderBytes
        guard Vmdk.Marker.sectorField.number(in: bytes) == UInt64(guestSector), size > 0,
            let payload = bytes.part(start..<start + size)
        else { throw BlockError(.corrupt, "The marker of a compressed grain is damaged") }
        try Deflate.decompressZlib(payload, into: &grain)
    }
}

extension VmdkDriver {
    /// The number of grains per read.
    private static let grainsAtOnce = 16

    /// - Throws: `io`, `corrupt`, `limit`.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let batch = try locate(offset + done, limit: count - done)
            var part = buffer.slice(done..<done + batch.count)
            try read(batch, into: &part, at: offset + done)
            done += batch.count
        }
    }

    /// The source of a part of an encoded range.
    private enum Batch {
        /// Plain bytes of a file that is not a child of the node.
        case plain(BlockNode, hostOffset: Int, count: Int)
        /// Compressed grains, the first of which has `inside` bytes before the range.
        case compressed(VmdkGrainTables, offsets: [Int], firstGrain: Int, inside: Int, count: Int, end: Int)

        var count: Int {
            switch self {
            case .plain(_, _, let count): count
            case .compressed(_, _, _, _, let count, _): count
            }
        }
    }

    private func locate(_ offset: Int, limit: Int) throws(BlockError) -> Batch {
        try session.withLock { (state) throws(BlockError) -> Batch in
            let extent = state.extents[state.extentIndex(at: offset)]
            let position = offset - extent.guest.lowerBound
            guard let file = extent.file else { throw Self.notEncoded }
            let most = min(limit, extent.guest.upperBound - offset)
            guard case .sparse(let tables) = extent.content else {
                guard case .flat(let start) = extent.content else { throw Self.notEncoded }
                return .plain(file, hostOffset: start + position, count: most)
            }
            let (grain, inside) = (position / tables.grainBytes, position % tables.grainBytes)
            let wanted = (inside + most - 1) / tables.grainBytes + 1
            let (entry, run) = try tables.run(at: grain, limit: min(wanted, Self.grainsAtOnce))
            guard tables.isPlace(entry) else { throw Self.notEncoded }
            let bytes = min(most, run * tables.grainBytes - inside)
            guard tables.header.isCompressed else {
                return .plain(file, hostOffset: try tables.hostOffset(entry) + inside, count: bytes)
            }
            var offsets: [Int] = []
            for index in 0..<run { offsets.append(try tables.hostOffset(tables.entry(grain + index))) }
            return .compressed(
                tables, offsets: offsets, firstGrain: grain, inside: inside, count: bytes, end: tables.end)
        }
    }

    private static let notEncoded = BlockError(.corrupt, "The image changed while it was read")

    private func read(
        _ batch: Batch, into buffer: inout MutableRawSpan, at offset: Int
    ) throws(BlockError) {
        switch batch {
        case .plain(let file, let hostOffset, let count):
            try file.requireStored(at: hostOffset, count: count)
            try file.read(into: &buffer, at: hostOffset)
        case .compressed(let tables, let offsets, let firstGrain, let inside, let count, let end):
            // The grain size does not change, and the file is a constant.
            let (file, grainBytes) = (tables.file, tables.grainBytes)
            let spans = Self.spans(offsets, end, VmdkGrainCodec.maximumBytes(grainBytes: grainBytes))
            var done = 0
            for span in spans {
                let raw = AlignedBuffer(count: span.range.count)
                var bytes = raw.mutableBytes
                try file.read(into: &bytes, at: span.range.lowerBound)
                for index in span.grains {
                    let start = index == 0 ? inside : 0
                    let length = min(grainBytes - start, count - done)
                    let position = offsets[index] - span.range.lowerBound
                    let stored = raw.bytes(position..<raw.count)
                    try file.requireStored(
                        at: offsets[index], count: VmdkGrainCodec.storedBytes(stored, grainBytes))
                    let sector = (firstGrain + index) * (grainBytes / Vmdk.sectorBytes)
                    var part = buffer.slice(done..<done + length)
                    let onDisk = tables.header.capacityBytes - (firstGrain + index) * grainBytes
                    try Self.decode(stored, start, grainBytes, onDisk: onDisk, sector, into: &part)
                    done += length
                }
            }
        }
    }

    /// Decompresses a whole grain directly into the output, or a part of one through a buffer.
    private static func decode(
        _ stored: RawSpan, _ start: Int, _ grainBytes: Int, onDisk: Int, _ sector: Int,
        into part: inout MutableRawSpan
    ) throws(BlockError) {
        if part.byteCount == grainBytes {
            return try VmdkGrainCodec.decode(stored, into: &part, guestSector: sector)
        }
        let whole = AlignedBuffer(count: grainBytes)
        do throws(BlockError) {
            var bytes = whole.mutableBytes
            try VmdkGrainCodec.decode(stored, into: &bytes, guestSector: sector)
        } catch {
            // QEMU compresses only the part of the last grain that is inside the disk.
            guard error.kind == .corrupt, onDisk > 0, onDisk < grainBytes,
                start + part.byteCount <= onDisk
            else { throw error }
            var bytes = whole.mutableBytes(0..<onDisk)
            try VmdkGrainCodec.decode(stored, into: &bytes, guestSector: sector)
        }
        part.copy(from: whole.bytes(start..<start + part.byteCount))
    }

    /// Groups grains that lie close to each other into one read. `most` is the largest size of a grain's
    /// data, in bytes.
    private static func spans(
        _ offsets: [Int], _ end: Int, _ most: Int
    ) -> [(range: Range<Int>, grains: Range<Int>)] {
        var spans: [(range: Range<Int>, grains: Range<Int>)] = []
        for (index, offset) in offsets.enumerated() {
            let stop = min(offset + most, max(end, offset))
            if let last = spans.last, offset > offsets[index - 1], offset <= last.range.upperBound {
                spans[spans.count - 1] = (last.range.lowerBound..<stop, last.grains.lowerBound..<index + 1)
            } else {
                spans.append((offset..<stop, index..<index + 1))
            }
        }
        return spans
    }
}

extension VmdkDriver: CompressedWriting {
    public var compressedUnitBytes: Int { writeGranularity }

    /// Only `streamOptimized` images store grains compressed; other sparse images store them plainly, as QEMU
    /// does.
    ///
    /// - Throws: `unsupported` for an image without grains; `limit` when the compressor gets no memory.
    public func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        guard compressesAlways else {
            if compressedUnitBytes > 1 { return nil }
            throw Self.noGrains(file.filename)
        }
        var room = output.slice(0..<min(output.byteCount, compressedUnitBytes - 1))
        guard unit.byteCount < compressedUnitBytes else { return try Deflate.compressZlib(unit, into: &room) }
        let padded = AlignedBuffer(count: compressedUnitBytes, zeroed: true)
        var bytes = padded.mutableBytes
        bytes.copy(from: unit)
        return try Deflate.compressZlib(padded.bytes, into: &room)
    }

    /// - Throws: `unsupported` for other subformats than `streamOptimized`; `noSpace`, `io`, `corrupt`.
    public func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        let guest = offset..<min(offset + compressedUnitBytes, virtualSize)
        let grant = try session.begin(guest) { (state) throws(BlockError) in
            let grant = try state.grant(guest, over: 0)
            guard grant.form == .wholeUnits, grant.guest == guest else {
                state.giveBack(grant)
                throw BlockError(
                    .unsupported, "Only images of the subformat 'streamOptimized' store compressed grains",
                    path: file.filename)
            }
            return grant
        }
        do throws(BlockError) { try store(payload, for: grant) } catch {
            session.giveBack(grant)
            throw error
        }
        try session.link(grant)
    }

    /// - Throws: `noSpace`, `io`, `limit`, `unsupported`.
    public func storeEncoded(_ bytes: RawSpan, for grant: WriteGrant, at guest: Int) throws(BlockError) {
        let grainBytes = session.withLock { $0.grainBytes(at: guest) }
        let grain = AlignedBuffer(count: max(grainBytes, bytes.byteCount), zeroed: true)
        var whole = grain.mutableBytes
        whole.copy(from: bytes)
        let payload = try VmdkGrainCodec.encode(grain.bytes)
        try store(payload.span.bytes, for: grant)
    }

    /// Stores a compressed grain in a new place.
    private func store(_ payload: RawSpan, for grant: WriteGrant) throws(BlockError) {
        let place = try session.withLock { (state) throws(BlockError) in
            try state.place(payload, for: grant)
        }
        guard let place else { return }
        let stored = VmdkGrainCodec.stored(payload, guestSector: place.sector)
        try grant.file.write(stored.bytes, at: place.host)
    }
}
