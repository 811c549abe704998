import BlockCore

extension QcowHeader {
    /// The offset of the L1 table in images that Platter makes, in bytes; header and backing name are in
    /// front of it.
    static let frontBytes = 4096

    /// The space for a name in front: up to the L1 table, or the first sector when the L1 table is elsewhere.
    private var front: Range<Int> {
        Qcow.headerBytes..<(l1Offset <= Self.frontBytes ? l1Offset : Qcow.sectorBytes)
    }

    /// An offset for the backing name in front of the tables; `nil` when there is none. It avoids the present
    /// name, unless header and name share one sector, which is written atomically.
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
    /// The order of writes:
    ///
    /// 1. a name that does not fit into the first sector, to unused space or to the end of the file; a flush;
    /// 2. the first sector, atomically: after a crash the image has the old or the new name.
    ///
    /// - Throws: `limit` for a name that is too long; `io`, `noSpace`.
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

    /// The order of writes:
    ///
    /// 1. zeroes over the L1 table, the only reference to anything; a flush;
    /// 2. table and name move to the front, each durable before the header refers to it;
    /// 3. the file is cut behind them.
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

    /// Shortens the file; nothing refers to the part that is cut off.
    func cut(to length: Int) throws(BlockError) {
        let longest = max(end, try file.length())
        guard length < longest else { return }
        try file.resize(to: length)
        end = length
        try file.flush()
    }
}

extension QcowDriver: Rebasable, Emptying {
    /// Changes the backing file that the image names, durable on return.
    ///
    /// The image cannot store the backing file's format, so probing must find the format that the caller
    /// names, if the file can be opened.
    ///
    /// - Throws: `invalidArgument` for a format that probing does not find; `limit` for a name that is too
    ///   long; `io`, `noSpace`.
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

    /// - Throws: `io`, `noSpace`, `limit`.
    public func makeEmpty() throws(BlockError) {
        try session.exclusively { (tables) throws(BlockError) in try tables.makeEmpty() }
    }
}
