import BlockCore
import Synchronization

/// Flushes, resizes and takes snapshots of an image while others write to it.
///
/// The disk never gets smaller than it was, so that nobody writes past its end. Thread-safe.
final class ImageChanger: Sendable {
    private let abilities: DiskAbilities
    private let sizeBytes: Int
    /// The snapshots that the image has.
    private let names = Mutex<[String]>([])

    init(abilities: DiskAbilities, sizeBytes: Int) {
        self.abilities = abilities
        self.sizeBytes = sizeBytes
    }

    /// - Throws: what the node throws, but for sizes and snapshots that a format may always refuse.
    func change(_ node: BlockNode, times: Int, _ random: inout SeededRandom) throws(BlockError) {
        for number in 0..<times {
            do throws(BlockError) {
                switch random.number(in: 0..<4) {
                case 0 where abilities.resizes:
                    try node.resize(to: sizeBytes + random.number(in: 0..<4) * max(abilities.unit, 512))
                case 1 where abilities.keepsSnapshots: try takeSnapshot("snapshot \(number)", of: node)
                case 2 where abilities.keepsSnapshots: try dropSnapshot(of: node)
                default: try node.flush()
                }
            } catch {
                guard error.kind == .unsupported || error.kind == .limit else { throw error }
            }
        }
    }

    private func takeSnapshot(_ name: String, of node: BlockNode) throws(BlockError) {
        try node.createSnapshot(SnapshotInfo(id: "", name: name))
        names.withLock { $0.append(name) }
    }

    private func dropSnapshot(of node: BlockNode) throws(BlockError) {
        guard let name = names.withLock({ $0.first }) else { return }
        try node.deleteSnapshot(named: name)
        names.withLock { _ = $0.removeFirst() }
    }

    /// Checks that what the snapshots hold was once on the disk, then deletes them.
    func checkSnapshots(_ session: ImageSession, _ history: StripeHistory) throws {
        let names = names.withLock { $0 }
        for name in names { session.model.createSnapshot(name) }
        try session.perform(.flush)
        for name in names {
            let node = try session.configuration.open(in: session.store, settings: OpenSettings())
            try (node.format as? any SnapshotCapable)?.selectSnapshot(id: nil, name: name)
            try history.checkPast(node)
            try node.close()
        }
        for name in names { try session.perform(.deleteSnapshot(name)) }
    }
}
