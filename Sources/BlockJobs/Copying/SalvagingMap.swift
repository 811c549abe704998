import BlockCore
import Synchronization

/// Reads a source's map past errors: runs that cannot be looked up are to be copied, so that reading them
/// finds out which sectors are lost. Thread-safe.
final class SalvagingMap: Sendable {
    private struct State {
        /// The limit of the next look-up, in bytes: a sector after a failure, doubled by each success.
        var reach = Int.max
        /// The guest offset where the last reported stretch ends.
        var reportedEnd = -1
    }

    private let onUnmapped: (@Sendable (Int, BlockError) -> Void)?
    private let state = Mutex(State())

    init(_ onUnmapped: (@Sendable (Int, BlockError) -> Void)?) { self.onUnmapped = onUnmapped }

    /// The action at `offset`, and the number of bytes for which it holds.
    func look(
        _ source: SourceDisk, at offset: Int, limit: Int, _ zeroAction: RunAction
    ) throws(BlockError) -> (RunAction, Int) {
        try state.withLock { (state) throws(BlockError) -> (RunAction, Int) in
            var failure: BlockError?
            for reach in [state.reach, SalvagingReader.sectorBytes] {
                do throws(BlockError) {
                    let status = try source.status(at: offset, limit: min(limit, reach))
                    state.reach = reach.multipliedReportingOverflow(by: 2).overflow ? .max : reach * 2
                    return (status.isZero ? zeroAction : .copy, status.length)
                } catch { failure = error }
            }
            let count = min(limit, SalvagingReader.sectorBytes)
            state.reach = SalvagingReader.sectorBytes
            if let failure, state.reportedEnd != offset { onUnmapped?(offset, failure) }
            state.reportedEnd = offset + count
            return (.copy, count)
        }
    }
}
