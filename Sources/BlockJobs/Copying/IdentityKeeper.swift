import BlockCore
import Synchronization

/// Keeps the content identity of a node while a job writes to it, until the guest writes too. Thread-safe.
///
/// The job leaves all bytes of the disk as they are, so overlays elsewhere may go on; a guest's write changes
/// them, and the format then gives the contents a new identity as usual.
final class IdentityKeeper: ChangeObserver {
    private let driver: any ContentIdentifying
    /// The threads that write for the job at the moment.
    private let own = Mutex<Set<UInt>>([])

    private init(_ driver: any ContentIdentifying) { self.driver = driver }

    func willChange(_ range: Range<Int>) {
        if !own.withLock({ $0.contains(WorkerThreads.current) }) { driver.keepIdentity(false) }
    }

    /// Runs `body`, whose changes on this thread are the job's.
    func working(_ body: () throws(BlockError) -> Void) throws(BlockError) {
        let thread = WorkerThreads.current
        own.withLock { _ = $0.insert(thread) }
        defer { own.withLock { _ = $0.remove(thread) } }
        try body()
    }

    /// Runs `body` with a keeper for the node; without one where the format has no identities.
    static func keeping(
        _ node: BlockNode, _ body: (IdentityKeeper?) throws(BlockError) -> Void
    ) throws(BlockError) {
        guard let driver = node.unfiltered.format?.asContentIdentifying else { return try body(nil) }
        let keeper = IdentityKeeper(driver)
        try node.addObserver(keeper) { driver.keepIdentity(true) }
        defer {
            node.removeObserver(keeper)
            driver.keepIdentity(false)
        }
        try body(keeper)
    }
}
