import BlockCore
import Synchronization

/// What the stripes of a disk held, one after the other, while each had one writer. Thread-safe.
final class StripeHistory: Sendable {
    private let before: ReferenceDisk
    private let stripeBytes: Int
    /// For each stripe, all that it held after the beginning; the last is what it holds now.
    private let contents = Mutex<[Int: [[UInt8]]]>([:])

    init(before: ReferenceDisk, stripeBytes: Int) {
        self.before = before
        self.stripeBytes = stripeBytes
    }

    private func range(_ stripe: Int) -> Range<Int> { stripe * stripeBytes..<(stripe + 1) * stripeBytes }

    /// Changes a stripe, and reads it back while others write beside it.
    ///
    /// - Throws: `corrupt` where it holds something else than it was given; what the node throws.
    func act(_ operation: DiskOperation, onStripe stripe: Int, of node: BlockNode) throws(BlockError) {
        let range = range(stripe)
        let old = contents.withLock { $0[stripe]?.last } ?? before.read(range)
        var model = ReferenceDisk(size: range.upperBound)
        model.apply(operation)
        let new = model.read(range)
        try node.perform(operation)
        let found = try node.readBytes(at: range.lowerBound, count: range.count)
        let isRight =
            operation.isDiscard
            ? Self.isMixture(found, of: [old, new]) : found == new
        guard isRight else {
            throw BlockError(
                .corrupt, "a thread did not read back what it had written", offset: range.lowerBound)
        }
        contents.withLock { $0[stripe, default: []].append(found) }
    }

    /// Puts what the stripes hold now into `model`.
    func bring(_ model: inout ReferenceDisk) {
        for (stripe, states) in contents.withLock({ $0 }) {
            if let last = states.last { model.adopt(last, at: range(stripe).lowerBound) }
        }
    }

    /// Checks that each sector of the node is one that it held at some time.
    func checkPast(_ node: BlockNode) throws {
        for (stripe, states) in contents.withLock({ $0 }) {
            let range = range(stripe)
            let found = try node.readBytes(at: range.lowerBound, count: range.count)
            guard Self.isMixture(found, of: [before.read(range)] + states) else {
                throw Mismatch("a snapshot holds what stripe \(stripe) at \(range.lowerBound) never held")
            }
        }
    }

    /// Whether every sector of `found` is that of one of `states`.
    private static func isMixture(_ found: [UInt8], of states: [[UInt8]]) -> Bool {
        stride(from: 0, to: found.count, by: Pattern.sectorBytes).allSatisfy { start in
            let sector = start..<min(start + Pattern.sectorBytes, found.count)
            return states.contains { $0[sector] == found[sector] }
        }
    }
}
