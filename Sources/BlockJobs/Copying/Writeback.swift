import BlockCore
import Synchronization

/// Starts writeback of a node's files while a job runs, so that the flush at its end has little left to
/// write. Thread-safe.
final class Writeback: Sendable {
    /// The number of bytes written between two starts of writeback.
    private static let stepBytes = Int.mib(8)

    private let node: BlockNode
    private let written = Atomic(0)

    init(of node: BlockNode) { self.node = node }

    /// Counts `bytes` more as written.
    func note(_ bytes: Int) {
        let (before, after) = written.add(bytes, ordering: .relaxed)
        if before / Self.stepBytes != after / Self.stepBytes { node.startWriteback() }
    }
}
