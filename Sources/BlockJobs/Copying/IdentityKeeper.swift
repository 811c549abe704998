import BlockCore

/// Keeps the content identity of a node while a job writes to it, until the guest writes too.
///
/// The job leaves all bytes of the disk as they are (``BlockNode/storingUnchanged(_:)``), so overlays
/// elsewhere may go on; a guest's write changes them, and the format then gives the contents a new identity
/// as usual.
/// Thread-safe.
final class IdentityKeeper: ChangeObserver {
    private let driver: any ContentIdentifying

    private init(_ driver: any ContentIdentifying) { self.driver = driver }

    func willChange(_ range: Range<Int>) { driver.keepIdentity(false) }

    /// Runs `body` with a keeper for the node; without one where the format has no identities.
    static func keeping(_ node: BlockNode, _ body: () throws(BlockError) -> Void) throws(BlockError) {
        guard let driver = node.unfiltered.format?.asContentIdentifying else { return try body() }
        let keeper = IdentityKeeper(driver)
        try node.addObserver(keeper) { driver.keepIdentity(true) }
        defer {
            node.removeObserver(keeper)
            driver.keepIdentity(false)
        }
        try body()
    }
}
