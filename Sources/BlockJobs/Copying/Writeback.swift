import BlockCore
import Synchronization

/// Has a disk's files begin to write while a job goes on, so that its flush in the end finds little to do.
/// Thread-safe.
final class Writeback: Sendable {
    /// How much is written between two beginnings, in bytes.
    private static let stepBytes = 8 << 20

    private let node: BlockNode
    private let written = Atomic(0)

    init(of node: BlockNode) { self.node = node }

    /// `bytes` more were written.
    func note(_ bytes: Int) {
        let (before, after) = written.add(bytes, ordering: .relaxed)
        if before / Self.stepBytes != after / Self.stepBytes { node.startWriteback() }
    }
}
