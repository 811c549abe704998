/// The write engine. Order of a write:
///
/// 1. grant: the format takes space, under its lock;
/// 2. move: the bytes are written there, without the lock;
/// 3. link: the format's tables refer to them, under the lock again.
///
/// So data is in the file before a table refers to it. When a step fails, the grant is given back.
///
/// The caller holds the ticket for the range, so that no other request fills the same units.
extension BlockNode {
    /// Up to this many bytes, a write and the rest of its units are assembled in memory and written at once.
    private static let assembledBytes = 256 << 10
    /// The most bytes of the rest of a unit that one step copies.
    private static let copyBytes = Int.mib(1)
    /// The sector size in bytes. A file that ends inside a sector could grow by a part of one when the power
    /// fails.
    private static let sectorBytes = 512

    /// The end of the backing node's bytes, as an offset of this disk; 0 without a backing node.
    var backingEnd: Int {
        guard let backing else { return 0 }
        // An unreadable length must not turn the backing file's bytes into zeroes: reading them will fail.
        return (try? backing.length()) ?? Int.max
    }

    /// Stores `bytes` at `offset` of the guest's disk.
    ///
    /// - Throws: errors of the driver and of the files; the parts before the failed one are stored.
    func store(_ bytes: RawSpan, at offset: Int, _ guest: GuestAccess) throws(BlockError) {
        let end = offset + bytes.byteCount
        var start = offset
        while start < end {
            let grant = try guest.driver.grant(start..<end, over: guest.backingEnd)
            guard grant.guest.lowerBound == start, grant.guest.upperBound > start,
                grant.guest.upperBound <= end
            else {
                guest.driver.giveBack(grant)
                throw BlockError(.corrupt, "The image maps an empty range", path: filename, offset: start)
            }
            let part = bytes.extracting(start - offset..<grant.guest.upperBound - offset)
            try complete(grant, guest) { () throws(BlockError) in try fill(grant, with: part, guest) }
            start = grant.guest.upperBound
        }
    }

    /// Moves the bytes of a grant, then links it; gives it back when that fails.
    func complete(
        _ grant: WriteGrant, _ guest: GuestAccess, _ move: () throws(BlockError) -> Void
    ) throws(BlockError) {
        do throws(BlockError) { try move() } catch {
            guest.driver.giveBack(grant)
            throw error
        }
        try guest.driver.link(grant)
    }

    /// Writes the bytes of a grant and the rest of its units.
    private func fill(
        _ grant: WriteGrant, with bytes: RawSpan, _ guest: GuestAccess
    ) throws(BlockError) {
        file?.emit(.writeData)
        if grant.units == grant.guest { return try put(bytes, grant.guest.lowerBound, grant, guest) }
        let head = UnitPart(grant.units.lowerBound..<grant.guest.lowerBound, grant.head, guest)
        let tail = UnitPart(grant.guest.upperBound..<grant.units.upperBound, grant.tail, guest)
        let isZero = head.isZero && tail.isZero
        if grant.isVirgin, isZero, grant.guest.upperBound % Self.sectorBytes == 0 {
            file?.emit(.clusterAllocateSpace)
            return try put(bytes, grant.guest.lowerBound, grant, guest)
        }
        let whole = head.start..<tail.end
        let isPlain = head.rest != .missing && tail.rest != .missing
        if grant.form == .wholeUnits || (isPlain && whole.count <= Self.assembledBytes) {
            return try assemble(head, bytes, tail, grant, guest)
        }
        // From back to front: the first write makes the file as long as the unit, so that it grows once.
        try copyRest(tail, grant, guest)
        try copyRest(head, grant, guest)
        try put(bytes, grant.guest.lowerBound, grant, guest)
    }

    /// Assembles a write and the rest of its units in memory, and writes them at once.
    private func assemble(
        _ head: UnitPart, _ bytes: RawSpan, _ tail: UnitPart, _ grant: WriteGrant, _ guest: GuestAccess
    ) throws(BlockError) {
        let buffer = AlignedBuffer(count: tail.end - head.start)
        var whole = buffer.mutableBytes
        var before = whole.slice(0..<head.count)
        try read(head, into: &before, guest)
        whole.copy(from: bytes, at: head.count)
        var behind = whole.slice(head.count + bytes.byteCount..<buffer.count)
        try read(tail, into: &behind, guest)
        file?.emit(.copyWrite)
        try put(buffer.bytes, head.start, grant, guest)
    }

    private func read(
        _ part: UnitPart, into buffer: inout MutableRawSpan, _ guest: GuestAccess
    ) throws(BlockError) {
        if part.count == 0 { return }
        if part.isZero { return buffer.fill() }
        file?.emit(.copyRead)
        try guest.read(into: &buffer, at: part.range.lowerBound)
    }

    /// Writes the rest of a unit on one side of a write.
    private func copyRest(_ part: UnitPart, _ grant: WriteGrant, _ guest: GuestAccess) throws(BlockError) {
        if part.count == 0 { return }
        if part.isZero {
            file?.emit(.copyWrite)
            return try putZeroes(part.range, .mayUnmap, grant, guest)
        }
        guard part.rest == .missing else { return try copyOld(part.range, grant, guest) }
        var offset = part.range.lowerBound
        // Bytes of the unit behind the end of the disk are never read.
        let end = min(part.range.upperBound, guest.driver.virtualSize)
        while offset < end {
            let run = try guest.driver.extent(at: offset, limit: end - offset)
            let range = offset..<offset + min(max(run.length, 1), end - offset)
            if run.status == .unallocated { try copyRest(UnitPart(range, .below, guest), grant, guest) }
            offset = range.upperBound
        }
    }

    /// Copies the guest's old bytes in `range` to their new place.
    private func copyOld(_ range: Range<Int>, _ grant: WriteGrant, _ guest: GuestAccess) throws(BlockError) {
        let buffer = AlignedBuffer(count: min(range.count, Self.copyBytes))
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(buffer.count, range.upperBound - offset)
            var part = buffer.mutableBytes(0..<count)
            file?.emit(.copyRead)
            try guest.read(into: &part, at: offset)
            file?.emit(.copyWrite)
            try put(buffer.bytes(0..<count), offset, grant, guest)
            offset += count
        }
    }

    /// Writes guest bytes to their place in a grant.
    private func put(
        _ bytes: RawSpan, _ offset: Int, _ grant: WriteGrant, _ guest: GuestAccess
    ) throws(BlockError) {
        guard grant.form == .plain else {
            return try guest.driver.storeEncoded(bytes, for: grant, at: offset)
        }
        try grant.file.write(bytes, at: grant.hostOffset(of: offset))
    }

    /// Writes zeroes to the place of guest bytes in a grant.
    func putZeroes(
        _ range: Range<Int>, _ flags: ZeroFlags, _ grant: WriteGrant, _ guest: GuestAccess
    ) throws(BlockError) {
        guard grant.form != .plain else {
            return try grant.file.writeZeroes(
                at: grant.hostOffset(of: range.lowerBound), count: range.count, flags: flags)
        }
        let zeroes = AlignedBuffer(count: min(range.count, Self.copyBytes), zeroed: true)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(zeroes.count, range.upperBound - offset)
            try put(zeroes.bytes(0..<count), offset, grant, guest)
            offset += count
        }
    }

    /// Zeroes the guest bytes of a grant, completes its units and links it.
    func storeZeroes(_ grant: WriteGrant, _ flags: ZeroFlags, _ guest: GuestAccess) throws(BlockError) {
        try complete(grant, guest) { () throws(BlockError) in
            try copyRest(
                UnitPart(grant.guest.upperBound..<grant.units.upperBound, grant.tail, guest), grant, guest)
            try copyRest(
                UnitPart(grant.units.lowerBound..<grant.guest.lowerBound, grant.head, guest), grant, guest)
            try putZeroes(grant.guest, flags, grant, guest)
        }
    }
}

/// The rest of a unit before or behind the written bytes, as far as it has to be written too.
private struct UnitPart {
    var range: Range<Int>
    var rest: WriteGrant.Rest

    /// Without backing bytes the rest is zero; a rest that is kept is no part of the write.
    init(_ range: Range<Int>, _ rest: WriteGrant.Rest, _ guest: GuestAccess) {
        self.range = range
        self.rest = rest
        if rest == .below { self.rest = guest.hasBacking(in: range) ? .old : .zero }
    }

    private var isKept: Bool { rest == .keep }
    var count: Int { isKept ? 0 : range.count }
    var isZero: Bool { range.isEmpty || rest == .zero || isKept }
    /// Where a write that includes this head begins, and one that includes this tail ends.
    var start: Int { isKept ? range.upperBound : range.lowerBound }
    var end: Int { isKept ? range.lowerBound : range.upperBound }
}
