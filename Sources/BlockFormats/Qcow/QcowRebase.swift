import BlockCore

extension QcowHeader {
    /// In images that are made here, the L1 table starts here; in front of it are header and backing name.
    static let frontBytes = 4096

    /// What is free for a name in front: up to the L1 table; where that is elsewhere, the first sector.
    private var front: Range<Int> {
        Qcow.headerBytes..<(l1Offset <= Self.frontBytes ? l1Offset : Qcow.sectorBytes)
    }

    /// A place in front of the tables for the backing name, away from the present one unless both header and
    /// name are in one sector, which is written at once; `nil` when there is none.
    ///
    /// - Throws: `limit` for a name that is too long.
    func placeInFront(_ name: [UInt8]) throws(BlockError) -> Int? {
        guard name.count <= Qcow.Limit.backingNameBytes else {
            throw BlockError(.limit, "Backing file name too long")
        }
        if Qcow.headerBytes + name.count <= min(Qcow.sectorBytes, front.upperBound) {
            return Qcow.headerBytes
        }
        return stride(from: Qcow.sectorBytes, to: front.upperBound, by: Qcow.sectorBytes).first {
            $0 + name.count <= front.upperBound && !nameRange.overlaps($0..<$0 + name.count)
        }
    }
}

extension QcowState {
    /// The order of writes: a name that does not fit into the first sector goes where the header does not
    /// refer to, behind all else if need be, a flush; then the first sector: old or new after a crash.
    func setBacking(_ reference: BackingReference?) throws(BlockError) {
        let name = (reference?.filename ?? "").rawBytes
        var changed = header
        changed.backing = reference.map { BackingReference(filename: $0.filename, format: nil) }
        changed.backingBytes = name.count
        changed.backingOffset = 0
        if name.isEmpty { return try writeHeader(changed) }
        let before = end
        if let place = try header.placeInFront(name) {
            changed.backingOffset = place
        } else {
            changed.backingOffset = try placeBehind(name)
        }
        if changed.backingOffset == Qcow.headerBytes { return try writeHeader(changed, name: name) }
        do throws(BlockError) {
            try file.write(name.span.bytes, at: changed.backingOffset)
            try file.flush()
        } catch {
            end = before
            throw error
        }
        try writeHeader(changed)
    }

    private func placeBehind(_ name: [UInt8]) throws(BlockError) -> Int {
        try allocate((name.count - 1) >> header.clusterBits + 1)
    }

    /// The order of writes: the L1 table becomes zero, a flush: nothing else refers to anything. Then table
    /// and name go to the front, where they are not there, each durable before the header has it; then the
    /// rest of the file goes.
    func makeEmpty() throws(BlockError) {
        try commit()
        try file.writeZeroes(at: header.l1Offset, count: l1Range.count)
        try file.flush()
        forgetTables()
        l2Places = []
        let front = QcowHeader.frontBytes..<QcowHeader.frontBytes + l1Range.count
        if header.l1Offset > front.lowerBound && !front.overlaps(l1Range)
            && !front.overlaps(header.nameRange)
        {
            try file.writeZeroes(at: front.lowerBound, count: front.count)
            try file.flush()
            var changed = header
            changed.l1Offset = front.lowerBound
            try writeHeader(changed)
            useL1(count: l1Count)
        }
        if header.backingOffset >= QcowHeader.frontBytes { try setBacking(header.backing) }
        let kept = max(l1Range.upperBound, header.nameRange.upperBound, Qcow.headerBytes)
        try cut(to: kept.roundedUp(to: Qcow.sectorBytes) ?? kept)
    }

    /// Makes the file shorter; nothing refers to what goes.
    func cut(to length: Int) throws(BlockError) {
        let longest = max(end, try file.length())
        guard length < longest else { return }
        try file.resize(to: length)
        end = length
        try file.flush()
    }
}

extension QcowDriver: Rebasable, Emptying {
    /// Durable on return. The format cannot keep the backing file's format, so probing must find the one that
    /// the caller names, where the file can be opened.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        if let backing, let format = backing.format,
            let node = try? request.openBacking(BackingReference(filename: backing.filename, format: nil))
        {
            let found = node.driverName
            try node.close()
            try Self.checkBackingFormat(format, found: found, of: backing.filename, request.registry)
        }
        try session.exclusively { (tables) throws(BlockError) in
            try tables.commit()
            try tables.setBacking(backing)
        }
    }

    public func makeEmpty() throws(BlockError) {
        try session.exclusively { (tables) throws(BlockError) in try tables.makeEmpty() }
    }
}
