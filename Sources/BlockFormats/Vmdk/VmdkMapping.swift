import BlockCore

/// Where the disk's bytes are, and what becomes of them when the guest writes. A grain is one unit, and a
/// grant has as many of them as follow each other.
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

    /// What a grant was for.
    private enum Grant: Int {
        /// Bytes that are there.
        case stored
        /// New grains.
        case grains
        /// New grains that read as zeroes until something is stored for them.
        case zeroGrains
        /// A grain that is compressed anew.
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
            // A stream is never read: what is not written of a grain is zero.
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

    /// The guest bytes of an extent's grains; those of its last grain up to its end.
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

    /// Takes space for grains, and zeroes what of the last one lies behind the end of its extent: it is part
    /// of no request.
    ///
    /// - Parameter used: how many bytes from the start belong to the disk.
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

    /// The tables of the extent in which a grant lies, and its grains.
    private func grains(of grant: WriteGrant) -> (tables: VmdkGrainTables, grains: Range<Int>)? {
        let extent = extents[extentIndex(at: grant.units.lowerBound)]
        guard let tables = extent.tables, !grant.units.isEmpty else { return nil }
        let first = (grant.units.lowerBound - extent.guest.lowerBound) / tables.grainBytes
        let last = (grant.units.upperBound - extent.guest.lowerBound - 1) / tables.grainBytes
        return (tables, first..<last + 1)
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) {
        guard let (tables, grains) = grains(of: grant) else { return }
        // A flush that came before this does not count for what was written.
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

    /// How large the grains of the extent at a guest offset are; 1 where it has none.
    func grainBytes(at offset: Int) -> Int { extents[extentIndex(at: offset)].grainBytes ?? 1 }

    /// Takes space for a compressed grain, which the grant's end gives an entry or gives back.
    ///
    /// - Returns: where it goes, and its first guest sector in the extent; `nil` where the payload was
    ///   appended to a stream.
    /// - Throws: `noSpace`; `unsupported` for a grain that is not behind the last of a stream; `io`.
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

    /// Whether every extent has entries that say zero.
    var marksZeroes: Bool { extents.allSatisfy { $0.tables?.header.hasZeroGrains == true } }

    /// What is stored becomes a hole of the file and stays where it is; what is not stored gets the mark that
    /// says zero, or is stored over a parent where the image has no such mark. Compressed grains lose their
    /// entry.
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
            // All of a grain that has no entry reads as zeroes here.
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

    /// Sets the entries of whole grains to "zero", or to nothing where nothing lies below.
    ///
    /// - Returns: `false` when that does not make them zeroes: nothing was changed.
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
