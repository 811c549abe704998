import BlockCore

/// The mapping: runs, grants, links and clearing. The unit is a grain; a grant covers adjacent grains.
extension VmdkState {
    // MARK: Reading

    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let extent = extents[extentIndex(at: offset)]
        let most = min(limit, extent.guest.upperBound - offset)
        let inside = offset - extent.guest.lowerBound
        switch extent.content {
        case .zero: return Extent(.zero(hostOffset: nil), length: most)
        case .flat(let start): return Self.data(start + inside, most, extent)
        case .sparse(let tables): return try Self.mapped(tables, inside, most, extent)
        case .seSparse(let tables): return try Self.mapped(tables, inside, most, extent)
        case .stream, .unopened:
            throw BlockError(
                .unsupported, "The disk cannot be read as it is open",
                path: (extent.file ?? descriptor?.file)?.filename)
        }
    }

    private static func data(_ hostOffset: Int, _ length: Int, _ extent: VmdkExtent) -> Extent {
        guard let child = extent.child else { return Extent(.encoded(compressed: false), length: length) }
        return Extent(.data(hostOffset: hostOffset), length: length, child: child)
    }

    private static func mapped(
        _ tables: VmdkGrainTables, _ offset: Int, _ limit: Int, _ extent: VmdkExtent
    ) throws(BlockError) -> Extent {
        let (grain, inside) = (offset / tables.grainBytes, offset % tables.grainBytes)
        let wanted = (inside + limit - 1) / tables.grainBytes + 1
        let (entry, count) = try tables.run(at: grain, limit: wanted)
        let length = min(limit, count * tables.grainBytes - inside)
        if entry == 0 { return Extent(.unallocated, length: length) }
        guard tables.isPlace(entry) else { return Extent(.zero(hostOffset: nil), length: length) }
        if tables.header.isCompressed { return Extent(.encoded(compressed: true), length: length) }
        return data(Int(entry) * Vmdk.sectorBytes + inside, length, extent)
    }

    private static func mapped(
        _ tables: VmdkSESparse, _ offset: Int, _ limit: Int, _ extent: VmdkExtent
    ) throws(BlockError) -> Extent {
        let (grain, inside) = (offset / tables.grainBytes, offset % tables.grainBytes)
        let wanted = (inside + limit - 1) / tables.grainBytes + 1
        let (place, count) = try tables.run(at: grain, limit: wanted)
        let length = min(limit, count * tables.grainBytes - inside)
        switch place {
        case .none: return Extent(.unallocated, length: length)
        case .zero: return Extent(.zero(hostOffset: nil), length: length)
        case .grain(let host): return data(host + inside, length, extent)
        }
    }

    // MARK: Granting

    /// The use of a grant, stored as its tag.
    private enum Grant: Int {
        /// Stored bytes.
        case stored
        /// New grains.
        case grains
        /// New grains that read as zeroes while unallocated.
        case zeroGrains
        /// A grain that is compressed again.
        case compressed
        /// Compressed bytes at the end of a stream, which needs no entry.
        case appended
    }

    static var unitsOverlap: Bool { true }

    func units(around guest: Range<Int>) -> Range<Int> { wholeGrains(guest) }

    mutating func grant(_ request: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        try prepareChange()
        let extent = extents[extentIndex(at: request.lowerBound)]
        let guest = request.clamped(to: extent.guest)
        let inside = guest.lowerBound - extent.guest.lowerBound
        guard let file = extent.file else {
            throw BlockError(.readOnly, "This part of the disk is always zero and cannot be written")
        }
        switch extent.content {
        case .flat(let start):
            return WriteGrant(inPlace: guest, at: start + inside, in: file, tag: Grant.stored.rawValue)
        case .sparse(let tables) where tables.header.isCompressed:
            return try grantCompressed(guest, extent, tables)
        case .sparse(let tables): return try grantGrains(guest, extent, tables, over: backingEnd)
        case .stream(let stream):
            // A stream is never read: the unwritten part of a grain is zero.
            let end = extent.guest.lowerBound + (inside / stream.grainBytes + 1) * stream.grainBytes
            var grant = WriteGrant(
                inPlace: guest.clamped(to: guest.lowerBound..<end), at: 0, in: file,
                tag: Grant.appended.rawValue)
            grant.form = .wholeUnits
            return grant
        case .zero, .seSparse, .unopened:
            throw BlockError(.readOnly, "This part of the disk cannot be written", path: file.filename)
        }
    }

    /// The guest bytes of an extent's grains; the last grain ends with the extent.
    private func unit(of grains: Range<Int>, _ extent: VmdkExtent, _ grainBytes: Int) -> Range<Int> {
        let start = extent.guest.lowerBound
        let end = min(start + grains.upperBound * grainBytes, extent.guest.upperBound)
        return start + grains.lowerBound * grainBytes..<end
    }

    private func grantCompressed(
        _ guest: Range<Int>, _ extent: VmdkExtent, _ tables: VmdkGrainTables
    ) throws(BlockError) -> WriteGrant {
        let grain = (guest.lowerBound - extent.guest.lowerBound) / tables.grainBytes
        let unit = unit(of: grain..<grain + 1, extent, tables.grainBytes)
        try tables.prepareToLink(grain..<grain + 1)
        var grant = WriteGrant(
            new: guest.clamped(to: unit), units: unit, at: 0, in: tables.file, rest: .old,
            tag: Grant.compressed.rawValue)
        grant.form = .wholeUnits
        return grant
    }

    private func grantGrains(
        _ guest: Range<Int>, _ extent: VmdkExtent, _ tables: VmdkGrainTables, over backingEnd: Int
    ) throws(BlockError) -> WriteGrant {
        let start = guest.lowerBound - extent.guest.lowerBound
        let (grain, inside) = (start / tables.grainBytes, start % tables.grainBytes)
        let wanted = (inside + guest.count - 1) / tables.grainBytes + 1
        let (entry, count) = try tables.run(at: grain, limit: wanted)
        let grains = grain..<grain + count
        let units = unit(of: grains, extent, tables.grainBytes)
        let part = guest.clamped(to: units)
        guard tables.isPlace(entry) else {
            try tables.prepareToLink(grains)
            let host = try allocate(grains, beyond: units.count, tables)
            let isZero = entry == Vmdk.zeroGrain || units.lowerBound >= backingEnd
            return WriteGrant(
                new: part, units: units, at: host, in: tables.file,
                rest: entry == Vmdk.zeroGrain ? .zero : .below,
                tag: (isZero ? Grant.zeroGrains : .grains).rawValue)
        }
        let host = try tables.hostOffset(entry)
        let bytes = count * tables.grainBytes
        guard host + bytes <= (tables.end.roundedUp(to: tables.grainBytes) ?? 0) + tables.grainBytes,
            !tables.isMetadata(host..<host + bytes)
        else {
            throw BlockError(
                .corrupt, "A grain lies over metadata or beyond the end of the file; check the image",
                path: tables.file.filename, offset: host)
        }
        return WriteGrant(inPlace: part, at: host + inside, in: tables.file, tag: Grant.stored.rawValue)
    }

    /// Takes space for grains, and zeroes the part of the last one behind the end of its extent, which no
    /// request writes.
    ///
    /// - Parameter used: the number of bytes from the start that belong to the disk.
    private func allocate(
        _ grains: Range<Int>, beyond used: Int, _ tables: VmdkGrainTables
    ) throws(BlockError) -> Int {
        let bytes = grains.count * tables.grainBytes
        let host = try tables.allocate(bytes)
        guard used < bytes else { return host }
        do throws(BlockError) { try tables.file.writeZeroes(at: host + used, count: bytes - used) } catch {
            tables.giveBack(host, bytes, firstGrain: nil)
            throw error
        }
        return host
    }

    // MARK: Ending grants

    /// The tables of a grant's extent, and its grains.
    private func grains(of grant: WriteGrant) -> (tables: VmdkGrainTables, grains: Range<Int>)? {
        let extent = extents[extentIndex(at: grant.units.lowerBound)]
        guard let tables = extent.tables, !grant.units.isEmpty else { return nil }
        let first = (grant.units.lowerBound - extent.guest.lowerBound) / tables.grainBytes
        let last = (grant.units.upperBound - extent.guest.lowerBound - 1) / tables.grainBytes
        return (tables, first..<last + 1)
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        guard let (tables, grains) = grains(of: grant) else { return }
        // The data was written after the last flush.
        tables.hasUnflushedData = true
        guard grant.isNew else { return }
        try tables.prepareToLink(grains)
        if grant.tag == Grant.compressed.rawValue {
            guard let place = compressed[grant.units.lowerBound] else { return }
            try tables.set(grains.lowerBound, to: UInt32(place.lowerBound / Vmdk.sectorBytes))
            compressed[grant.units.lowerBound] = nil
        } else {
            let (start, host) = (grant.units.lowerBound, grant.hostOffset)
            for (index, grain) in grains.enumerated() {
                let place = host + index * tables.grainBytes
                try tables.set(grain, to: UInt32(place / Vmdk.sectorBytes))
                let end = min(start + (index + 1) * tables.grainBytes, grant.units.upperBound)
                grant.units = end..<grant.units.upperBound
                grant.hostOffset = place + tables.grainBytes
            }
        }
        grant.isNew = false
        try tables.commitIfCrowded()
    }

    mutating func giveBack(_ grant: WriteGrant) {
        guard let (tables, grains) = grains(of: grant) else { return }
        tables.hasUnflushedData = true
        guard grant.isNew else { return }
        guard grant.tag != Grant.compressed.rawValue else {
            if let place = compressed.removeValue(forKey: grant.units.lowerBound) {
                tables.giveBack(place.lowerBound, place.count)
            }
            return
        }
        let isZero = grant.tag == Grant.zeroGrains.rawValue
        tables.giveBack(
            grant.hostOffset, grains.count * tables.grainBytes, firstGrain: isZero ? grains.lowerBound : nil)
    }

    // MARK: Compressed grains

    /// The grain size of the extent at a guest offset, in bytes; 1 for an extent without grains.
    func grainBytes(at offset: Int) -> Int { extents[extentIndex(at: offset)].grainBytes ?? 1 }

    /// Takes space for a compressed grain; linking the grant sets its entry, giving it back releases the
    /// space.
    ///
    /// - Returns: its host offset, and its first guest sector in the extent; `nil` when the payload was
    ///   appended to a stream.
    /// - Throws: `noSpace`; `unsupported` for a grain before the last one of a stream; `io`.
    mutating func place(
        _ payload: RawSpan, for grant: WriteGrant
    ) throws(BlockError) -> (host: Int, sector: Int)? {
        let extent = extents[extentIndex(at: grant.guest.lowerBound)]
        if case .stream(let stream) = extent.content {
            let inside = grant.guest.lowerBound - extent.guest.lowerBound
            try stream.append(payload, grain: inside / stream.grainBytes)
            return nil
        }
        guard let (tables, grains) = grains(of: grant) else { return nil }
        let count = VmdkGrainCodec.storedBytes(ofPayload: payload.byteCount)
        let host = try tables.allocate(count)
        compressed[grant.units.lowerBound] = host..<host + count
        return (host, grains.lowerBound * tables.header.grainSectors)
    }

    // MARK: Clearing

    /// Whether every extent supports zero entries.
    var marksZeroes: Bool { extents.allSatisfy { $0.tables?.header.hasZeroGrains == true } }

    /// Stored grains become holes of the file and keep their places. Unallocated grains get the zero entry;
    /// in an image without zero entries, zeroes are stored over a parent. Compressed grains lose their entry.
    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        let here = try run(at: range.lowerBound, limit: range.count)
        let part = clearable(range.lowerBound..<range.lowerBound + here.length)
        // A mark is the whole grain's: what the parent has of any of it must not vanish.
        let shows = wholeGrains(part).lowerBound < backingEnd
        switch here.status {
        case .zero: break
        case .data, .encoded(compressed: false):
            let grant = try grant(part, over: backingEnd)
            return ClearStep(.zero(grant), length: grant.guest.count)
        case .unallocated where !shows:
            // A whole grain without an entry reads as zeroes here.
            if marksZeroes { _ = try mark(wholeGrains(part), shows: false) }
        case .unallocated, .encoded:
            if try mark(part, shows: shows) { break }
            guard here.status == .unallocated else { return ClearStep(.store, length: part.count) }
            if mode == .discard { break }
            let grant = try grant(part, over: backingEnd)
            guard grant.form == .plain else {
                giveBack(grant)
                return ClearStep(.store, length: part.count)
            }
            return ClearStep(.zero(grant), length: grant.guest.count)
        }
        return ClearStep(.done, length: part.count)
    }

    /// The start of a run that is cleared in one way: the rest of the grain in which it begins, else whole
    /// grains, else a part of one.
    private func clearable(_ run: Range<Int>) -> Range<Int> {
        let extent = extents[extentIndex(at: run.lowerBound)]
        guard let grain = extent.grainBytes, grain > 1 else { return run }
        let start = run.lowerBound - extent.guest.lowerBound
        let end = min(run.upperBound, extent.guest.upperBound) - extent.guest.lowerBound
        var stop = end
        if start % grain != 0 {
            stop = min(end, start.roundedDown(to: grain) + grain)
        } else if end - start > grain, end < extent.guest.count {
            stop = end.roundedDown(to: grain)
        }
        return run.lowerBound..<extent.guest.lowerBound + stop
    }

    /// Sets the zero entries of whole grains, or clears their entries if no parent shows.
    ///
    /// - Returns: `false` when the grains would not read as zeroes; nothing was changed.
    private mutating func mark(_ range: Range<Int>, shows: Bool) throws(BlockError) -> Bool {
        let extent = extents[extentIndex(at: range.lowerBound)]
        guard let tables = extent.tables, wholeGrains(range) == range, !shows || tables.header.hasZeroGrains
        else { return false }
        try prepareChange()
        let first = (range.lowerBound - extent.guest.lowerBound) / tables.grainBytes
        let end = (range.upperBound - extent.guest.lowerBound - 1) / tables.grainBytes + 1
        let entry: UInt32 = tables.header.hasZeroGrains ? Vmdk.zeroGrain : 0
        try tables.prepareToLink(first..<end)
        try tables.link(first..<end) { _ in entry }
        return true
    }
}
