import BlockCore

/// What of a disk is not yet in its mirror: marked by the guest's writes, taken by the job's threads.
/// Thread-safe.
final class MirrorTracker: ChangeObserver {
    private struct State {
        /// The ranges that a thread copies at the moment.
        var taken: [Range<Int>] = []
        /// Where the search for the next range begins.
        var cursor = 0
        var isOver = false
    }

    private let bitmap: DirtyBitmap
    private let state = Monitor(State())
    private let wake: @Sendable () -> Void
    private let source: BlockNode
    /// The mirror, where a write returns only once it is there too.
    private let target: BlockNode?

    /// - Parameters:
    ///   - target: the mirror, for the write-blocking mode; `nil` for the background mode.
    ///   - wake: called when there is work.
    /// - Throws: `limit` for a disk of too many granules; `io`.
    init(
        of source: BlockNode, granularity: Int, target: BlockNode?, wake: @escaping @Sendable () -> Void
    ) throws(BlockError) {
        bitmap = try DirtyBitmap(size: try source.length(), granularity: granularity)
        self.source = source
        self.target = target
        self.wake = wake
    }

    /// The unit of the marks, in bytes.
    var granularity: Int { bitmap.granularity }
    /// The bytes that are not yet in the mirror, in whole granules.
    var remainingBytes: Int { min(bitmap.size, bitmap.dirtyCount * bitmap.granularity) }
    var isClean: Bool { bitmap.dirtyCount == 0 }

    func mark(_ range: Range<Int>) {
        bitmap.set(range)
        wake()
    }

    // MARK: The guest's writes

    /// In background mode, marks before the bytes change: a thread that takes the range then waits for the
    /// request's ticket before it reads.
    func willChange(_ range: Range<Int>) {
        if target == nil { mark(range) }
    }

    func didWrite(_ bytes: RawSpan, at offset: Int) {
        guard let target else { return }
        do throws(BlockError) { try target.write(bytes, at: offset) } catch {
            mark(offset..<offset + bytes.byteCount)
        }
    }

    func didZero(_ range: Range<Int>) {
        guard let target else { return }
        do throws(BlockError) { try target.writeZeroes(at: range.lowerBound, count: range.count) } catch {
            mark(range)
        }
    }

    /// Zeroes in the mirror where the disk reads as zeroes now; else the range is copied.
    func didDiscard(_ range: Range<Int>) {
        guard target != nil else { return }
        let here = try? source.status(at: range.lowerBound, limit: range.count)
        if let here, here.isZero, here.length == range.count { didZero(range) } else { mark(range) }
    }

    func didChange(_ range: Range<Int>) {
        if target != nil { mark(range) }
    }

    // MARK: The job's threads

    /// Takes the next marked range of at most `limit` bytes and removes its marks; `nil` once all is copied.
    /// Ranges that another thread copies are left out until it has ended.
    func take(atMost limit: Int) -> Range<Int>? {
        let granularity = bitmap.granularity
        var found: Range<Int>?
        state.wait(until: { state in
            if state.isOver { return true }
            found = Self.next(bitmap, state, max(granularity, limit.roundedDown(to: granularity)))
            return found != nil || state.taken.isEmpty
        }) { state in
            guard let found else { return }
            bitmap.clear(found)
            state.taken.append(found)
            state.cursor = found.upperBound
        }
        return found
    }

    /// Ends the copying of a range; on failure it is marked again.
    func giveBack(_ range: Range<Int>, isCopied: Bool) {
        if !isCopied { bitmap.set(range) }
        state.withLock { state in
            state.taken.removeAll { $0 == range }
            if !isCopied { state.isOver = true }
        }
        state.notifyAll()
    }

    private static func next(_ bitmap: DirtyBitmap, _ state: State, _ limit: Int) -> Range<Int>? {
        search(bitmap, state, from: state.cursor, limit) ?? search(bitmap, state, from: 0, limit)
    }

    private static func search(
        _ bitmap: DirtyBitmap, _ state: State, from start: Int, _ limit: Int
    ) -> Range<Int>? {
        var offset = start
        while let run = bitmap.nextRun(from: offset), !run.isEmpty {
            // Whole granules, so that clearing the marks clears all of the range.
            let lower = run.lowerBound.roundedDown(to: bitmap.granularity)
            let range = lower..<min(run.upperBound, lower + limit)
            guard let other = state.taken.first(where: { $0.overlaps(range) }) else { return range }
            if other.lowerBound > lower { return lower..<other.lowerBound }
            offset = other.upperBound
        }
        return nil
    }
}
