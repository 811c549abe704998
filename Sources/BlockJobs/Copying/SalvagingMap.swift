import BlockCore
import Synchronization

/// Asks for a source's map and goes on past what cannot be looked up: that is tried to be read, which says
/// what is lost. Thread-safe.
final class SalvagingMap: Sendable {
    private struct State {
        /// How much is asked for at once, in bytes: little after a failure, then more and more.
        var reach = Int.max
        /// Where the stretch ends that was told last.
        var toldEnd = -1
    }

    private let onUnmapped: (@Sendable (Int, BlockError) -> Void)?
    private let state = Mutex(State())

    init(_ onUnmapped: (@Sendable (Int, BlockError) -> Void)?) { self.onUnmapped = onUnmapped }

    /// What is to be done at `offset`, and for how many bytes.
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
            if let failure, state.toldEnd != offset { onUnmapped?(offset, failure) }
            state.toldEnd = offset + count
            return (.copy, count)
        }
    }
}
