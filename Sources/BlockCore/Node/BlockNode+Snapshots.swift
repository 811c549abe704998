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

    /// Deletes the snapshot with this id or name when no other request is under way. Durable on return.
    ///
    /// - Throws: also `notFound`.
    public func deleteSnapshot(_ idOrName: String) throws(BlockError) {
        try changeSnapshots { driver throws(BlockError) in try driver.deleteSnapshot(idOrName) }
    }

    /// A reader must not look for bytes in clusters that a snapshot's going gives to somebody else.
    private func changeSnapshots(
        _ body: (any SnapshotCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        try checkWritable()
        guard let driver = format as? any SnapshotCapable else {
            throw BlockError(.unsupported, "Operation not supported", path: filename)
        }
        let ticket = requests.acquire(0..<Int.max, exclusive: true)
        defer { requests.release(ticket) }
        try body(driver)
    }
}
