import BlockCore
import Synchronization

/// The work of jobs that follow a guest's writes: ``MirrorJob`` and ``ActiveCommitJob``.
///
/// 1. Attach the tracker while no request is under way, then mark what is to be copied.
/// 2. Copy what is marked, on several threads; once next to nothing is marked, the job is ready.
/// 3. Copy again whenever the guest has written, until the caller completes the job.
/// 4. Copy until little is left, or the guest writes faster than that.
/// 5. While no request is under way: copy the rest, make the target durable, detach, run `atEnd`.
struct MirrorEngine: Sendable {
    /// The largest piece that one thread copies at a time, in bytes.
    private static let chunkBytes = Int.mib(1)
    private static let workers = 2
    /// What may be left to copy while the guest waits, in bytes, unless that many passes do not get there.
    private static let restBytes = Int.mib(4)
    private static let lastPasses = 8

    let source: BlockNode
    let target: BlockNode
    let blocksWrites: Bool
    /// Whether the target may get a backing file later, over which zeroes must stay.
    let marksZeroes: Bool
    let device: BlockDevice?

    /// Does the work.
    ///
    /// - Parameters:
    ///   - atStart: called while no request is under way, before the guest's writes are followed.
    ///   - mark: marks what is to be copied; the guest writes meanwhile.
    ///   - atEnd: called while no request is under way, when the target has everything durably.
    func run(
        _ control: JobControl, granularity: Int, atStart: () throws(BlockError) -> Void,
        mark: (MirrorTracker) throws(BlockError) -> Void, atEnd: () throws(BlockError) -> Void
    ) throws(BlockError) {
        let tracker = try source.drained { () throws(BlockError) in
            try atStart()
            let tracker = try MirrorTracker(
                of: source.unfiltered, granularity: granularity, target: blocksWrites ? target : nil,
                wake: { control.wake() })
            try source.addObserver(tracker)
            return tracker
        }
        var isAttached = true
        defer { if isAttached { source.removeObserver(tracker) } }
        try mark(tracker)
        let copier = MirrorCopier(
            source: source, target: target, blocksWrites: blocksWrites, marksZeroes: marksZeroes)
        try follow(tracker, copier, control)
        try drained { () throws(BlockError) in
            try copyAll(tracker, copier, control)
            try target.flush()
            source.removeObserver(tracker)
            isAttached = false
            try atEnd()
        }
    }

    private func follow(
        _ tracker: MirrorTracker, _ copier: MirrorCopier, _ control: JobControl
    ) throws(BlockError) {
        var lastPasses = 0
        while lastPasses < Self.lastPasses {
            try pass(tracker, copier, control)
            if !control.isReady, tracker.remainingBytes <= Self.chunkBytes { control.becomeReady() }
            if control.mustComplete {
                if tracker.remainingBytes <= Self.restBytes { break }
                lastPasses += 1
            } else if control.isReady || tracker.isClean {
                try control.waitForNews()
            }
        }
        // A pause or a cancellation counts until the guest is stopped.
        try control.checkpoint(moving: 0)
    }

    /// Copies as much as is marked at its start: what the guest marks meanwhile is for the next pass.
    private func pass(
        _ tracker: MirrorTracker, _ copier: MirrorCopier, _ control: JobControl
    ) throws(BlockError) {
        let left = Atomic(tracker.remainingBytes)
        control.advance(by: 0, remaining: tracker.remainingBytes)
        // One range, such as after one write, needs no second thread.
        let workers = tracker.remainingBytes > Self.chunkBytes ? Self.workers : 1
        try WorkerThreads.run(min(workers, control.maximumWorkers)) { (_) throws(BlockError) in
            let space = Workspace(dataBytes: max(Self.chunkBytes, tracker.granularity), scratchBytes: 0)
            // The bytes of the step before, which the pace charges: holes cost nothing.
            var moved = 0
            while left.load(ordering: .relaxed) > 0 {
                try control.checkpoint(moving: moved)
                let limit = min(Self.chunkBytes, control.stepBytes ?? Self.chunkBytes)
                guard let range = tracker.take(atMost: limit) else { return }
                moved = try copy(range, space, tracker, copier, control)
                left.subtract(range.count, ordering: .relaxed)
            }
        }
    }

    /// Copies a range that was taken.
    ///
    /// - Returns: how many bytes were data.
    private func copy(
        _ range: Range<Int>, _ space: Workspace, _ tracker: MirrorTracker, _ copier: MirrorCopier,
        _ control: JobControl
    ) throws(BlockError) -> Int {
        let moved: Int
        do throws(BlockError) { moved = try copier.copy(range, space) } catch {
            tracker.giveBack(range, isCopied: false)
            throw error
        }
        tracker.giveBack(range, isCopied: true)
        control.advance(by: range.count, remaining: tracker.remainingBytes)
        return moved
    }

    /// Runs `body` while neither the device nor the source has requests under way.
    private func drained(_ body: () throws(BlockError) -> Void) throws(BlockError) {
        guard let device else { return try source.drained(body) }
        try device.drained { () throws(BlockError) in try source.drained(body) }
    }

    /// Copies the rest on this thread.
    private func copyAll(
        _ tracker: MirrorTracker, _ copier: MirrorCopier, _ control: JobControl
    ) throws(BlockError) {
        let space = Workspace(dataBytes: max(Self.chunkBytes, tracker.granularity), scratchBytes: 0)
        while let range = tracker.take(atMost: Self.chunkBytes) {
            do throws(BlockError) { try control.checkCancelled() } catch {
                tracker.giveBack(range, isCopied: false)
                throw error
            }
            _ = try copy(range, space, tracker, copier, control)
        }
    }
}
