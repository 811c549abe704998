import BlockCore
import BlockJobs
import BlockTestSupport

/// Jobs as steps of the model.
extension LiveModel {
    private static let formats = ["qcow2", "raw", "qcow2", "qed", "vmdk", "qcow2", "vhdx"]

    /// Starts a job, where the chain has what it needs.
    func start(_ kind: LiveJob, _ choice: Int, speed: Int, isPaused: Bool) throws {
        guard jobs.count < 3 else { return }
        if kind == .backup || kind == .copy { try quiet() }
        let root = try self.root()
        guard let (job, target) = try make(kind, choice) else { return }
        let running: RunningJob
        do throws(BlockError) {
            running = try engine.start(job, speed: speed, isPaused: isPaused)
        } catch {
            try target?.close()
            guard error.kind == .busy, !jobs.isEmpty else {
                throw Mismatch("\(kind) did not start: \(error)")
            }
            return count("start refused")
        }
        var started = Started(kind: kind, running: running, root: root, target: target)
        if kind == .backup {
            running.waitUntilBegun()
            started.moment = disk
        }
        jobs.append(started)
    }

    private func make(_ kind: LiveJob, _ choice: Int) throws -> (job: any BlockJob, target: BlockNode?)? {
        let node = try root()
        let chain = node.chain
        let lower = chain.count - 1
        switch kind {
        case .stream:
            guard lower > 0, node.format?.asRebasable != nil else { return nil }
            let base = choice % 2 == 0 ? nil : chain[1 + choice / 2 % lower]
            return (StreamJob(node: node, base: base), nil)
        case .streamMiddle:
            guard lower > 1, chain[1].format?.asRebasable != nil else { return nil }
            return (StreamJob(node: chain[1]), nil)
        case .mirror, .activeMirror, .copy, .backup:
            let format = Self.formats[choice % Self.formats.count]
            let target = try self.node(try create(format, choice))
            return (copier(kind, node, target, choice), target)
        case .activeCommit:
            guard lower > 0, try chain.allSatisfy({ try $0.length() <= disk.size }) else { return nil }
            return (ActiveCommitJob(top: node, base: chain[1 + choice % lower], device: device), nil)
        case .commitMiddle:
            guard lower > 1, node.format?.asRebasable != nil else { return nil }
            return (CommitJob(top: chain[1], base: chain[2], emptiesTop: false, overlay: node), nil)
        }
    }

    private func copier(
        _ kind: LiveJob, _ source: BlockNode, _ target: BlockNode, _ choice: Int
    ) -> any BlockJob {
        if kind == .backup { return BackupJob(source: source, target: target) }
        return MirrorJob(
            source: source, target: target, copyMode: kind == .activeMirror ? .writeBlocking : .background,
            granularity: [512, 4096, 65536][choice / 8 % 3], device: kind == .copy ? nil : device)
    }

    // MARK: Steering

    func with(_ index: Int, _ body: (Started) -> Void) {
        if !jobs.isEmpty { body(jobs[index % jobs.count]) }
    }

    func cancel(_ index: Int) throws {
        guard !jobs.isEmpty else { return }
        let index = index % jobs.count
        jobs[index].isCancelled = true
        jobs[index].running.cancelAndWait()
        try reap()
    }

    func complete(_ index: Int) throws {
        guard !jobs.isEmpty else { return }
        let started = jobs[index % jobs.count]
        try end(started)
    }

    /// Lets a job end by itself.
    private func end(_ started: Started) throws {
        let running = started.running
        while running.isPaused { try? running.resume() }
        try running.setSpeed(0)
        if running.type.waitsForCompletion, started.kind != .backup {
            running.waitUntilReady()
            // Without a device the target is the disk of the moment of completion.
            if started.kind == .copy { try quiet() }
            if !running.hasEnded { try? running.complete() }
        }
        _ = try? running.wait()
        try reap()
    }

    func endJobs() throws {
        while let started = jobs.first { try end(started) }
    }

    // MARK: The end of a job

    /// Looks at the results of the jobs that have ended.
    func reap() throws {
        for started in jobs where started.running.hasEnded {
            jobs.removeAll { $0.running === started.running }
            try reap(started)
        }
    }

    private func reap(_ started: Started) throws {
        do throws(BlockError) { try started.running.wait() } catch {
            try started.target?.close()
            let wasEnded = started.isCancelled || started.root !== device.root
            guard error.kind == .cancelled && wasEnded || error.kind == .unsupported else {
                throw Mismatch("\(started.kind) failed: \(error)")
            }
            return count("\(started.kind) \(error.kind)")
        }
        count("\(started.kind) done")
        switch started.kind {
        case .mirror, .activeMirror, .activeCommit:
            snapshots = [:]
            bitmap = nil
            guard started.target == nil || device.root === started.target else {
                throw Mismatch("the device did not go on with the copy")
            }
        case .backup, .copy: try compareTarget(started)
        // What a snapshot does not store itself came from the layers below, which are others now.
        case .stream, .streamMiddle, .commitMiddle: snapshots = [:]
        }
    }

    private func compareTarget(_ started: Started) throws {
        guard let target = started.target else { return }
        try target.close()
        let again = try node(target.filename, readOnly: true)
        if started.kind == .backup || guest == nil {
            try Self.compare(
                try again.readBytes(at: 0, count: try again.length()), started.moment ?? disk,
                "the target of \(started.kind)")
        }
        try again.close()
    }
}

extension RunningJob {
    /// Waits until the job has set its total, or has ended.
    func waitUntilBegun() {
        let seen = Monitor(false)
        control.observe { control in
            guard control.progress.total > 0 || control.status == .concluded else { return }
            seen.withLock { $0 = true }
            seen.notifyAll()
        }
        if control.progress.total > 0 || control.status == .concluded { return }
        seen.wait(until: { $0 }) { _ in }
    }
}
