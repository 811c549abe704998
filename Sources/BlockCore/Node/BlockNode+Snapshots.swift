import Synchronization

extension BlockNode {
    /// Takes a snapshot inside the image, after waiting until no other request is under way.
    ///
    /// Durable on return.
    ///
    /// - Throws: `unsupported` when the format stores none; `busy` while a job uses the node; `readOnly`,
    ///   `limit`, `noSpace`, `io`, `corrupt`.
    public func createSnapshot(_ info: SnapshotInfo) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.createSnapshot(info) }
    }

    /// Makes the disk that of the snapshot with this id or name, after waiting until no other request is
    /// under way.
    ///
    /// Durable on return.
    ///
    /// - Throws: as ``createSnapshot(_:)``; `notFound`.
    public func applySnapshot(_ idOrName: String) throws(BlockError) {
        try changeSnapshots(changesDisk: true) { driver throws(BlockError) in
            try driver.applySnapshot(idOrName)
        }
    }

    /// Deletes the first snapshot of this name, after waiting until no other request is under way.
    ///
    /// Durable on return.
    ///
    /// - Throws: as ``createSnapshot(_:)``; `notFound`.
    public func deleteSnapshot(named name: String) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.deleteSnapshot(named: name) }
    }

    /// All requests wait: a reader must not read clusters that deleting a snapshot frees for other data.
    private func changeSnapshots(
        changesDisk: Bool = false, _ body: (any SnapshotCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        if let shownChild { return try shownChild.changeSnapshots(changesDisk: changesDisk, body) }
        try checkWritable()
        guard let driver = format?.asSnapshotCapable else {
            throw BlockError(.unsupported, "Operation not supported", path: filename)
        }
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try checkUnused()
        let before = driver.virtualSize
        if changesDisk { for observer in observers.all { try observer.willChange(0..<before) } }
        try body(driver)
        guard changesDisk else { return }
        for observer in observers.all {
            if driver.virtualSize != before { observer.didResize(to: driver.virtualSize) }
            observer.didChange(0..<driver.virtualSize)
        }
    }

    // MARK: Machine state

    /// Stores `bytes` at `offset` of a machine's saved state, after waiting until no other request is under
    /// way.
    ///
    /// ``flush()`` makes it durable.
    ///
    /// - Throws: `unsupported` when the format stores none; `readOnly`, `limit`, `noSpace`, `io`, `corrupt`.
    public func saveVMState(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if let shownChild { return try shownChild.saveVMState(bytes, at: offset) }
        try checkWritable()
        let driver = try stateKeeper()
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try driver.saveVMState(
            bytes, at: offset, guest: GuestAccess(self, driver, readsBehindEnd: true))
        needsFlush.store(true, ordering: .relaxed)
        if settings.cache.isWriteThrough { try driver.flush() }
    }

    /// Fills `buffer` from `offset` of a machine's saved state; bytes that were not saved are zeroes.
    ///
    /// - Throws: `unsupported` when the format stores no machine state; `io`, `corrupt`.
    public func loadVMState(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        if let shownChild { return try shownChild.loadVMState(into: &buffer, at: offset) }
        let driver = try stateKeeper()
        let ticket = requests.acquire(0..<Int.max, exclusive: false)
        defer { requests.release(ticket) }
        try checkOpen()
        try driver.loadVMState(into: &buffer, at: offset)
    }

    private func stateKeeper() throws(BlockError) -> any VMStateCapable {
        guard let driver = format?.asVMStateCapable else {
            throw BlockError(.unsupported, "Operation not supported", path: filename)
        }
        return driver
    }
}
