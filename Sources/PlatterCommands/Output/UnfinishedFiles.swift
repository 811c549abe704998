import BlockProtocols
import Synchronization

/// The files of images that are being made. A second interrupt removes them before it ends the process, since
/// the thread that makes them has no time left to do so. Thread-safe.
enum UnfinishedFiles {
    private static let all = Mutex<[ObjectIdentifier: NewFiles]>([:])

    static func add(_ files: NewFiles) { all.withLock { $0[ObjectIdentifier(files)] = files } }

    /// Forgets files that have got their names or were removed.
    static func settle(_ files: NewFiles) {
        _ = all.withLock { $0.removeValue(forKey: ObjectIdentifier(files)) }
    }

    static func removeAll() { all.withLock { Array($0.values) }.forEach { $0.remove() } }
}
