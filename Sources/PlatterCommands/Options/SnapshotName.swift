import BlockCore

/// A snapshot as `-l` names it: `NAME`, or `snapshot.id=ID,snapshot.name=NAME`.
struct SnapshotName {
    var id: String?
    var name: String?
    /// A word without a key, which may be an ID or a name.
    private var word: String?

    /// - Throws: for unknown options.
    init(_ text: String) throws(CommandFailure) {
        guard text.hasPrefix("snapshot.") else {
            word = text
            return
        }
        do throws(BlockError) {
            var options = try OptionTree.parse(text)
            id = options.take("snapshot.id")
            name = options.take("snapshot.name")
            if let unknown = options.keys.first {
                throw BlockError(.invalidArgument, "Invalid parameter '\(unknown)'")
            }
        } catch {
            var failure = CommandFailure(error)
            failure.messages.append("Failed in parsing snapshot param '\(text)'")
            throw failure
        }
    }

    /// Selects the snapshot in `node`, which is open read-only, so that it reads as the snapshot.
    ///
    /// - Throws: `Failed to load snapshot: reason`.
    func select(in node: BlockNode) throws(BlockError) {
        let failed = "Failed to load snapshot"
        guard let driver = node.unfiltered.format as? any SnapshotCapable else {
            throw BlockError(
                .unsupported,
                "\(failed): Block format '\(node.driverName)' used by device '' does not support temporarily "
                    + "loading internal snapshots")
        }
        do throws(BlockError) {
            guard let word else { return try driver.selectSnapshot(id: id, name: name) }
            try selectWord(word, driver)
        } catch {
            if error.kind == .notFound { throw BlockError(.notFound, "\(failed): Can't find snapshot") }
            throw error.prefixed(failed)
        }
    }

    private func selectWord(_ word: String, _ driver: any SnapshotCapable) throws(BlockError) {
        let snapshots = try driver.snapshots()
        if snapshots.contains(where: { $0.id.isSameName(as: word) }) {
            return try driver.selectSnapshot(id: word, name: nil)
        }
        try driver.selectSnapshot(id: nil, name: word)
    }
}
