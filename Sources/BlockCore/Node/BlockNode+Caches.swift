import Synchronization

/// The tables that drivers keep in memory, towards the file and from it.
extension BlockNode {
    /// Writes the tables that the node's driver and its files keep in memory to the files.
    ///
    /// The bytes are the system's then: they survive this process, but not a crash of the machine.
    /// ``flush()`` makes them durable.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    public func flushToSystem() throws(BlockError) {
        if isReadOnly { return }
        try checkOpen()
        if case .format(let driver) = layer {
            file?.emit(.flushToSystem)
            try driver.flushToSystem()
        }
        for child in children { try child.flushToSystem() }
    }

    /// Drops what the nodes of the chain keep in memory, and reads it again: another program may have changed
    /// the files since.
    ///
    /// A writable node is flushed and keeps its tables, as its locks exclude other writers. Files that have
    /// only bytes, and formats that never change, keep nothing. Changes of the names of further files need
    /// the image to be opened again.
    ///
    /// - Throws: `unsupported` for an image of several files, and for one that shows a snapshot; `corrupt`
    ///   when a table is damaged or the image has another layout; `wrongFormat`, `limit`, `io`, `noSpace`.
    ///   The layer keeps its old tables then.
    public func invalidateCaches() throws(BlockError) {
        for node in chain { try node.invalidateLayer() }
    }

    /// Sets how the tables are read again.
    func rereads(_ reread: @escaping @Sendable () throws(BlockError) -> any FormatDriver) {
        state.withLock { $0.reread = reread }
    }

    private func invalidateLayer() throws(BlockError) {
        for child in children { try child.invalidateLayer() }
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkOpen()
        guard isReadOnly else { return try flush() }
        seenLength.store(0, ordering: .relaxed)
        guard let driver = format?.asRereading else { return }
        guard let reread = state.withLock({ $0.reread }) else {
            throw BlockError(
                .unsupported, "An image of several files must be opened again to see changes", path: filename)
        }
        try driver.takeTables(of: try reread())
        state.withLock { $0.storedEnds = [:] }
    }
}
