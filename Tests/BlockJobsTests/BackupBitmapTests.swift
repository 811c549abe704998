import BlockCore
import BlockTestSupport
import Testing

@testable import BlockJobs

/// Chains of incremental backups, with bitmaps in memory and stored in the image.
@Suite struct BackupBitmapTests {
    private let images = BackupImages()
    private let targets = BackupImages()
    private let engine = JobEngine()
    private let size = 1 << 20

    private func source(stored: Bool, granularity: Int = 4096) throws -> BlockNode {
        let source = try images.makeFilled("disk", size: size, cluster: 4096, seed: 1)
        if stored {
            try source.changeBitmaps { driver throws(BlockError) in
                try driver.addBitmap("b", granularity: granularity, isEnabled: true)
            }
        } else {
            _ = try source.addBitmap(named: "b", granularity: granularity)
        }
        return source
    }

    private func backUp(
        _ source: BlockNode, to name: String, over base: String? = nil, _ sync: BackupJob.Sync,
        _ mode: BackupJob.BitmapMode = .onSuccess
    ) throws {
        let target = try targets.make(name, size: size, over: base.map { ($0, "qcow2") })
        let before = try Layers.contents(source)
        let job = try engine.start(
            BackupJob(source: source, target: target, sync: sync, bitmapMode: mode), isPaused: true)
        let guests = Guest.threads(2, on: source, seed: UInt64(name.utf8.last ?? 0), acts: 6)
        try job.resume()
        try job.wait()
        guests.forEach { $0.wait() }
        #expect(try Layers.contents(target) == before, "\(name)")
        try target.close()
    }

    @Test(.timeLimit(.minutes(3)), arguments: [false, true], [512, 4096, 262_144])
    func eachLinkOfTheChainIsItsMoment(_ stored: Bool, _ granularity: Int) throws {
        let source = try source(stored: stored, granularity: granularity)
        try backUp(source, to: "t0", .full)
        for round in 1..<5 {
            try backUp(source, to: "t\(round)", over: "t\(round - 1)", .incremental(bitmap: "b"))
        }
        #expect(try source.bitmapStatuses().map(\.isBusy) == [false])
        try source.close()
    }

    @Test(.timeLimit(.minutes(1)), arguments: [false, true], BackupJob.BitmapMode.allCases)
    func successKeepsOrClearsTheBitmap(_ stored: Bool, _ mode: BackupJob.BitmapMode) throws {
        let source = try source(stored: stored)
        try source.write([UInt8](repeating: 5, count: 4096).span.bytes, at: 8192)
        let target = try targets.make("copy", size: size)
        let job = try engine.start(
            BackupJob(source: source, target: target, sync: .incremental(bitmap: "b"), bitmapMode: mode),
            isPaused: true)
        #expect(try source.bitmapStatuses().map(\.isBusy) == [true])
        try source.write([UInt8](repeating: 6, count: 4096).span.bytes, at: 40960)
        try job.resume()
        try job.wait()
        let since = [40960..<45056]
        let all = [8192..<12288] + since
        #expect(try source.bitmapBits(named: "b").runs == (mode == .never ? all : since))
        // Only the marked cluster was copied.
        #expect(try target.layerExtent(at: 65536, limit: 1).status == .unallocated)
        try source.write([7].span.bytes, at: 81920)
        let marked = try source.bitmapBits(named: "b").runs
        #expect(marked.contains(81920..<86016))
        try source.close()
        if stored {
            let again = try images.open("disk")
            #expect(try again.bitmapBits(named: "b").runs == marked)
            try again.close()
        }
    }

    /// A cancelled backup of mode `always` leaves a target that belongs to the chain, and a bitmap of the
    /// rest.
    @Test(.timeLimit(.minutes(1)), arguments: [false, true], [BackupJob.BitmapMode.always, .onSuccess])
    func cancellingLeavesWhatTheNextBackupNeeds(_ stored: Bool, _ mode: BackupJob.BitmapMode) throws {
        let source = try source(stored: stored)
        try backUp(source, to: "t0", .full)
        for offset in stride(from: 0, to: size, by: 131_072) {
            try source.write([UInt8](repeating: 9, count: 4096).span.bytes, at: offset)
        }
        let marked = try source.bitmapBits(named: "b").dirtyCount
        let target = try targets.make("t1", size: size, over: ("t0", "qcow2"))
        // A clock that stands still lets one step pass.
        let engine = JobEngine(clock: ManualClock())
        let job = try engine.start(
            BackupJob(source: source, target: target, sync: .incremental(bitmap: "b"), bitmapMode: mode),
            speed: 20 * 65536)
        job.control.wait { $0.progress.done > 0 }
        try source.write([UInt8](repeating: 10, count: 4096).span.bytes, at: 65536)
        job.cancel()
        #expect(blockError { () throws(BlockError) in try job.wait() }?.kind == .cancelled)
        try target.close()
        let bits = try source.bitmapBits(named: "b")
        #expect(bits.contains(65536))
        #expect(mode == .always ? !bits.contains(0) : bits.dirtyCount >= marked)
        let base = mode == .always ? "t1" : "t0"
        try backUp(source, to: "t2", over: base, .incremental(bitmap: "b"))
        try source.close()
    }

    @Test func aReadOnlySourceKeepsItsStoredBitmap() throws {
        try source(stored: true).close()
        let source = try images.open("disk", readOnly: true)
        let target = try targets.make("copy", size: size)
        let sync = BackupJob.Sync.incremental(bitmap: "b")
        let failure = blockError { () throws(BlockError) in
            try BackupJob(source: source, target: target, sync: sync).run(JobControl())
        }
        #expect(failure?.kind == .readOnly)
        try BackupJob(source: source, target: target, sync: sync, bitmapMode: .never).run(JobControl())
        try source.close()
        try target.close()
    }
}
