import BlockProtocols
import Synchronization

/// The files of images that are being made, which a second interrupt removes before it ends the process: the
/// thread that makes them has no time left to do so. Thread-safe.
enum UnfinishedFiles {
    private static let all = Mutex<[ObjectIdentifier: NewFiles]>([:])

    static func add(_ files: NewFiles) { all.withLock { $0[ObjectIdentifier(files)] = files } }

    /// Whoever made them has given them their names, or has removed them.
    static func settle(_ files: NewFiles) {
        _ = all.withLock { $0.removeValue(forKey: ObjectIdentifier(files)) }
    }

    static func removeAll() { all.withLock { Array($0.values) }.forEach { $0.remove() } }
}
