import BlockCore

/// Saved machine state lies in the guest space behind the disk: from the first L2 table that maps none of it.
extension Qcow2Driver: VMStateCapable {
    /// The offset in guest space at which machine state starts behind a disk of `virtualSize` bytes.
    static func stateOffset(virtualSize: Int, _ layout: Qcow2Layout) -> Int {
        layout.l1Entries(forVirtualSize: virtualSize) * layout.guestBytesPerL2Table
    }

    /// Order of writes: a longer L1 table in a new place, a barrier, the header that points to it; then as
    /// for any write.
    public func saveVMState(
        _ bytes: RawSpan, at offset: Int, guest: GuestAccess
    ) throws(BlockError) {
        let count = bytes.byteCount
        file.emit(.stateSave)
        let start = try exclusively { tables throws(BlockError) -> Int in
            guard !tables.isReadOnly else {
                throw BlockError(.readOnly, "Block node is read-only", path: file.filename)
            }
            try tables.checkMayShare()
            return try tables.makeStateRoom(for: offset, count: count)
        }
        try guest.write(bytes, at: start)
        metadata.withLock { $0.savedStateBytes = max($0.savedStateBytes, offset + count) }
    }

    public func loadVMState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        // `virtualSize` is the snapshot's size if one is selected.
        let state = Self.stateOffset(virtualSize: virtualSize, layout)
        let (start, overflow) = state.addingReportingOverflow(offset)
        guard offset >= 0, !overflow else {
            throw BlockError(.invalidArgument, "The offset is outside the saved state", path: file.filename)
        }
        file.emit(.stateLoad)
        try readState(into: &buffer, at: start)
    }

    /// Reads guest space of this layer alone; unallocated clusters read as zeroes.
    fileprivate func readState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let extent = try extent(at: offset + done, limit: count - done)
            let run = min(max(extent.length, 1), count - done)
            var part = buffer.slice(done..<done + run)
            switch extent.status {
            case .data(let hostOffset): try data.read(into: &part, at: hostOffset, guest: offset + done)
            case .encoded: try readEncoded(into: &part, at: offset + done)
            case .zero, .unallocated: part.fill()
            }
            done += run
        }
    }
}

extension Qcow2State {
    /// Extends the L1 table to `count` bytes of state at `offset`. Returns their offset in guest space.
    fileprivate func makeStateRoom(for offset: Int, count: Int) throws(BlockError) -> Int {
        let state = Qcow2Driver.stateOffset(virtualSize: header.virtualSize, layout)
        let (start, overflow) = state.addingReportingOverflow(offset)
        let (end, tooLarge) = start.addingReportingOverflow(count)
        guard offset >= 0, !overflow, !tooLarge,
            layout.l1Entries(forVirtualSize: end) <= Qcow2.Limit.l1TableBytes / 8
        else { throw BlockError(.limit, "The saved state is too large", path: file.filename) }
        let needed = layout.l1Entries(forVirtualSize: end)
        if needed > l1.count {
            try commit()
            try moveL1(to: l1 + [UInt64](repeating: 0, count: needed - l1.count))
        }
        return start
    }

    /// Takes saved state out of the active tables, once a snapshot has it: every further snapshot would share
    /// it too.
    ///
    /// Order of writes: the L1 entries are cleared, durably, before their clusters are released.
    func dropState() throws(BlockError) {
        savedStateBytes = 0
        let first = layout.l1Entries(forVirtualSize: header.virtualSize)
        guard first < l1.count else { return }
        var state = [UInt64](repeating: 0, count: l1.count)
        for index in first..<l1.count where l1[index] & L2Entry.offsetMask != 0 {
            state[index] = l1[index]
            setL1(index, to: 0)
        }
        try unshareClusters(of: state)
        try commit()
    }
}
