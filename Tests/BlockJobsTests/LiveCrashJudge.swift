import BlockCore
import BlockFormats
import BlockTestSupport

@testable import BlockJobs

/// A seeded choice of moments of a scenario's log, and the verdict on each.
struct LiveCrashReplay {
    let scenario: LiveCrashScenario
    /// How many moments are looked at, all of a shorter log; each once as after a kill.
    var moments = TestEffort.isLong ? 1000 : 3
    /// How many power failures are drawn at each moment.
    var samples = TestEffort.isLong ? 2 : 1
    private(set) var tried = 0
    private(set) var violations: [String] = []

    init(_ scenario: LiveCrashScenario) { self.scenario = scenario }

    /// Looks at chosen moments in `range` of a log; by default at the whole of the scenario's.
    mutating func run(_ log: [StorageEvent]? = nil, in range: ClosedRange<Int>? = nil) {
        let log = log ?? scenario.log
        var random = SeededRandom(seed: scenario.seed &+ 2)
        var replay = CrashReplay(files: scenario.before, log: log)
        for point in chosen(range ?? 0...log.count, &random) {
            replay.advance(to: point)
            judge(replay.afterKill, at: point, "killed")
            for sample in 0..<samples {
                judge(replay.afterPowerFailure(&random), at: point, "power failure \(sample)")
            }
        }
    }

    private func chosen(_ range: ClosedRange<Int>, _ random: inout SeededRandom) -> [Int] {
        guard range.count > moments else { return Array(range) }
        var points: Set<Int> = [range.upperBound]
        while points.count < moments {
            points.insert(random.number(in: range.lowerBound..<range.upperBound))
        }
        return points.sorted()
    }

    private mutating func judge(_ files: [String: SparseBytes], at point: Int, _ what: String) {
        tried += 1
        do { try scenario.judge(files, at: point) } catch {
            violations.append(
                "\(scenario.work) of \(scenario.images.format), seed \(scenario.seed): \(what) after event "
                    + "\(point) of \(scenario.log.count): \(error)")
        }
    }
}

extension LiveCrashScenario {
    /// Throws where the files that a crash left after `point` events break a promise.
    func judge(_ files: [String: SparseBytes], at point: Int) throws {
        let after = LiveImages(store: TestStore(files), format: images.format)
        if !guest.possibleStates(of: Self.disk, at: point).isEmpty {
            // After a commit the guest goes on with the base, and the layers above are left over.
            let isLeftOver = work == .activeCommit && isPivoted(at: point)
            if !isLeftOver { try judgeDisk(Self.disk, in: after, at: point) }
        }
        for name in [Self.copy, "base", "middle"] where after.store[name] != nil {
            if !guest.possibleStates(of: name, at: point).isEmpty {
                try judgeDisk(name, in: after, at: point)
            }
        }
        if let backup, point >= backup.from, work == .backup { try judgeBackup(backup.contents, in: after) }
        for name in files.keys.sorted() { try after.checkStructure(name) }
    }

    private func isPivoted(at point: Int) -> Bool {
        ["base", "middle"].contains { !guest.possibleStates(of: $0, at: point).isEmpty }
    }

    /// Opens a disk as its next user does, compares it, goes on with it.
    private func judgeDisk(_ name: String, in images: LiveImages, at point: Int) throws {
        let node = try images.open(name)
        do {
            guard var found = try guest.judge(node, of: name, at: point) else { return try node.close() }
            try judgeBitmap(of: node, found, at: point)
            let bytes = Pattern.bytes(stamp: 77_777, at: 4096, count: 9000)
            try node.write(bytes.span.bytes, at: 4096)
            found.write(bytes, at: 4096)
            try node.close()
            if name == Self.disk { try finishJob(in: images) }
            let again = try images.open(name, readOnly: true)
            let isSame = try again.readBytes(at: 0, count: found.size) == found.read(0..<found.size)
            try again.close()
            if !isSame { throw Mismatch("\(name) lost bytes when it was used again") }
        } catch {
            try? node.close()
            throw error
        }
    }

    /// Runs a job that works within the chain once more: it goes on where it was stopped.
    private func finishJob(in images: LiveImages) throws {
        let node = try images.open(Self.disk)
        defer { try? node.close() }
        guard node.backing != nil else { return }
        let control = JobControl(maximumWorkers: 1)
        do {
            switch work {
            case .stream: try StreamJob(node: node).run(control)
            case .streamToBase: try StreamJob(node: node, base: node.chain.last).run(control)
            case .commit: try CommitJob(top: node).run(control)
            case .rebaseToNothing: try RebaseJob(node: node, backing: nil, reference: nil).run(control)
            default: return
            }
        } catch { throw Mismatch("the job cannot be done again: \(error)") }
        try node.close()
    }

    private func judgeBackup(_ contents: ReferenceDisk, in images: LiveImages) throws {
        let node = try images.open(Self.copy, readOnly: true)
        let isWhole = try node.readBytes(at: 0, count: contents.size) == contents.read(0..<contents.size)
        try node.close()
        if !isWhole { throw Mismatch("the backup is not the disk of its moment") }
    }

    /// A bitmap that can be used marks all that differs from the disk at its moment.
    private func judgeBitmap(of node: BlockNode, _ found: ReferenceDisk, at point: Int) throws {
        guard work == .incrementalBackup, let driver = node.format as? any BitmapCapable,
            let info = try driver.bitmaps().first(where: { $0.name == Self.bitmap }), !info.isInconsistent
        else { return }
        let bits = try driver.bitmap(named: Self.bitmap)
        // The backup has its clusters durably before the bitmap begins anew.
        let moments = [original] + (backup.map { durable(Self.copy, at: point) ? [$0.contents] : [] } ?? [])
        let isComplete = moments.contains { moment in
            stride(from: 0, to: found.size, by: 512).allSatisfy { offset in
                let range = offset..<min(offset + 512, found.size)
                return bits.contains(offset) || found.read(range) == moment.read(range)
            }
        }
        if !isComplete { throw Mismatch("the bitmap '\(Self.bitmap)' misses changes") }
    }

    /// Whether the job has made its target durable for the last time.
    private func durable(_ file: String, at point: Int) -> Bool {
        guard let end = backup?.from else { return false }
        let last = log.prefix(end).lastIndex { event in
            if case .flush(file) = event { true } else { false }
        }
        return last.map { $0 < point } ?? false
    }
}
