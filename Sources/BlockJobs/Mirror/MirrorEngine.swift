import BlockCore

/// The work of jobs that follow a guest's writes: ``MirrorJob`` and ``ActiveCommitJob``.
///
/// 1. Attach the tracker while no request is under way, and mark what is to be copied.
/// 2. Copy what is marked, on several threads, until nothing is; then the job is ready.
/// 3. Copy again whenever the guest has written, until the caller completes the job.
/// 4. While no request is under way: copy the rest, make the target durable, detach, run `atEnd`.
struct MirrorEngine: Sendable {
    /// The largest piece that one thread copies at a time, in bytes.
    private static let chunkBytes = Int.mib(1)
    private static let workers = 2

    let source: BlockNode
    let target: BlockNode
    let blocksWrites: Bool
    let device: BlockDevice?

    func run(
        _ control: JobControl, granularity: Int, mark: (MirrorTracker) throws(BlockError) -> Void,
        atEnd: () throws(BlockError) -> Void
    ) throws(BlockError) {
        let tracker = try MirrorTracker(
            size: try source.length(), granularity: granularity, target: blocksWrites ? target : nil,
            wake: { control.wake() })
        try source.addObserver(tracker) { () throws(BlockError) in try mark(tracker) }
        var isAttached = true
        defer { if isAttached { source.removeObserver(tracker) } }
        let copier = MirrorCopier(source: source, target: target, blocksWrites: blocksWrites)
        try follow(tracker, copier, control)
        try drained { () throws(BlockError) in
            try copyAll(tracker, copier)
            try target.flush()
            source.removeObserver(tracker)
            isAttached = false
            try atEnd()
        }
    }

    private func follow(
        _ tracker: MirrorTracker, _ copier: MirrorCopier, _ control: JobControl
    ) throws(BlockError) {
        while true {
            try pass(tracker, copier, control)
            if !control.isReady { control.becomeReady() }
            if control.mustComplete { return }
            try control.waitForNews()
        }
    }

    /// Copies until nothing is marked.
    private func pass(
        _ tracker: MirrorTracker, _ copier: MirrorCopier, _ control: JobControl
    ) throws(BlockError) {
        control.setTotal(control.progress.done + tracker.remainingBytes)
        // One range, such as after one write, needs no second thread.
        let workers = tracker.remainingBytes > Self.chunkBytes ? Self.workers : 1
        try WorkerThreads.run(min(workers, control.maximumWorkers)) { (_) throws(BlockError) in
            let space = Workspace(dataBytes: max(Self.chunkBytes, tracker.granularity), scratchBytes: 0)
            // Under pressure from the guest, a pass ends so that the caller's wishes are heard.
            while !(control.isReady && control.mustComplete),
                let range = tracker.take(atMost: control.stepBytes ?? Self.chunkBytes)
            {
                var isCopied = false
                defer { tracker.giveBack(range, isCopied: isCopied) }
                try control.checkpoint(moving: range.count)
                try copier.copy(range, space)
                isCopied = true
                control.advance(by: range.count)
            }
        }
    }

    /// Runs `body` while neither the device nor the source has requests under way.
    private func drained(_ body: () throws(BlockError) -> Void) throws(BlockError) {
        guard let device else { return try source.drained(body) }
        try device.drained { () throws(BlockError) in try source.drained(body) }
    }

    /// Copies the rest on this thread.
    private func copyAll(_ tracker: MirrorTracker, _ copier: MirrorCopier) throws(BlockError) {
        let space = Workspace(dataBytes: max(Self.chunkBytes, tracker.granularity), scratchBytes: 0)
        while let range = tracker.take(atMost: Self.chunkBytes) {
            var isCopied = false
            defer { tracker.giveBack(range, isCopied: isCopied) }
            try copier.copy(range, space)
            isCopied = true
        }
    }
}
