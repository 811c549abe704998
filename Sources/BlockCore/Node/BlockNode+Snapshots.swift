import Synchronization

extension BlockNode {
    /// Takes a snapshot inside the image when no other request is under way. Durable on return.
    ///
    /// - Throws: `unsupported` when the format keeps none; `readOnly`, `limit`, `noSpace`, `io`.
    public func createSnapshot(_ info: SnapshotInfo) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.createSnapshot(info) }
    }

    /// Goes back to the snapshot with this id or name when no other request is under way. Durable on return.
    ///
    /// - Throws: also `notFound`.
    public func applySnapshot(_ idOrName: String) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.applySnapshot(idOrName) }
    }

    /// Deletes the first snapshot of this name when no other request is under way. Durable on return.
    ///
    /// - Throws: also `notFound`.
    public func deleteSnapshot(named name: String) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.deleteSnapshot(named: name) }
    }

    /// A reader must not look for bytes in clusters that a snapshot's going gives to somebody else.
    private func changeSnapshots(
        _ body: (any SnapshotCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        if let filter { return try filter.child.changeSnapshots(body) }
        try checkWritable()
        guard let driver = format as? any SnapshotCapable else {
            throw BlockError(.unsupported, "Operation not supported", path: filename)
        }
        let ticket = requests.acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try body(driver)
    }

    // MARK: Machine state

    /// Stores a part of a machine's saved state, when no other request is under way. Thread-safe. `flush()`
    /// makes it durable.
    ///
    /// - Throws: `unsupported` when the format keeps none; `readOnly`, `limit`, `noSpace`, `io`.
    public func saveVMState(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if let filter { return try filter.child.saveVMState(bytes, at: offset) }
        try checkWritable()
        let driver = try stateKeeper()
        let ticket = requests.acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try driver.saveVMState(
            bytes, at: offset, guest: GuestAccess(self, driver, readsBehindEnd: true))
        needsFlush.store(true, ordering: .relaxed)
        if settings.cache.isWriteThrough { try driver.flush() }
    }

    /// Fills `buffer` with a part of the saved state; zeroes where nothing was saved. Thread-safe.
    ///
    /// - Throws: `unsupported` when the format keeps none; `io`, `corrupt`.
    public func loadVMState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        if let filter { return try filter.child.loadVMState(into: &buffer, at: offset) }
        let driver = try stateKeeper()
        let ticket = requests.acquire(0..<Int.max, exclusive: false)
        defer { requests.release(ticket) }
        try checkOpen()
        try driver.loadVMState(into: &buffer, at: offset)
    }

    private func stateKeeper() throws(BlockError) -> any VMStateCapable {
        guard let driver = format as? any VMStateCapable else {
            throw BlockError(.unsupported, "Operation not supported", path: filename)
        }
        return driver
    }
}
