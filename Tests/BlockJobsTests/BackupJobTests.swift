import BlockCore
import BlockTestSupport
import Testing

@testable import BlockJobs

/// The target is what the source was at the moment, whatever guests write meanwhile.
@Suite struct BackupJobTests {
    private let images = BackupImages()
    private let targets = BackupImages()
    private let engine = JobEngine()

    struct Case: Sendable, CustomTestStringConvertible {
        var source: String
        var target: String
        var seed: UInt64
        var testDescription: String { "\(source) to \(target), seed \(seed)" }
    }

    static let cases: [Case] = ["raw", "qcow2"].flatMap { source in
        ["raw", "qcow2"].flatMap { target in
            (0..<3).map { Case(source: source, target: target, seed: $0) }
        }
    }

    @Test(.timeLimit(.minutes(3)), arguments: cases)
    func theTargetIsTheMoment(_ kind: Case) throws {
        let size = (2 << 20) + 512 * 5
        let source = try images.makeFilled(
            "disk", kind.source, size: size, cluster: kind.source == "qcow2" ? 4096 : nil, seed: kind.seed)
        // What the target had is not to show through the zeroes.
        let target = try targets.makeFilled(
            "copy", kind.target, size: size + 65536, seed: kind.seed + 100)
        let before = try Layers.contents(source)
        let job = try engine.start(BackupJob(source: source, target: target), isPaused: true)
        #expect(source.user == "backup" && target.user == "backup")
        let guests = Guest.threads(3, on: source, seed: kind.seed)
        try job.resume()
        try job.wait()
        guests.forEach { $0.wait() }
        #expect(try target.readBytes(at: 0, count: size) == before)
        #expect(try Layers.contents(source) != before)
        #expect(job.offset == size && job.length == size)
        let afterCrash = try targets.durableContents("copy").open("copy", kind.target, readOnly: true)
        #expect(try afterCrash.readBytes(at: 0, count: size) == before)
        try source.close()
        try target.close()
    }

    @Test(.timeLimit(.minutes(1)), arguments: [true, false])
    func aFullBackupHasTheChainAndAPartialOneItsTop(_ isFull: Bool) throws {
        let size = 1 << 20
        try images.makeFilled("base", size: size, cluster: 4096, seed: 1).close()
        try targets.makeFilled("base", size: size, cluster: 4096, seed: 1).close()
        let source = try images.make("disk", size: size, cluster: 4096, over: ("base", "qcow2"))
        let (bytes, at) = ([UInt8](repeating: 7, count: 8192), 300_000)
        try source.write(bytes.span.bytes, at: at)
        try source.writeZeroes(at: 700_000, count: 100_000)
        let before = try Layers.contents(source)
        let target =
            try isFull
            ? targets.make("copy", size: size) : targets.make("copy", size: size, over: ("base", "qcow2"))
        let job = try engine.start(
            BackupJob(source: source, target: target, sync: isFull ? .full : .top), isPaused: true)
        let guests = Guest.threads(2, on: source, seed: 5)
        try job.resume()
        try job.wait()
        guests.forEach { $0.wait() }
        #expect(try Layers.contents(target) == before)
        if !isFull {
            // Of the clusters that the top did not have, none was copied.
            var own = 0
            for offset in stride(from: 0, to: size, by: 65536)
            where try target.layerExtent(at: offset, limit: 1).status != .unallocated { own += 1 }
            #expect((3...4).contains(own))
        }
        try source.close()
        try target.close()
    }

    @Test(.timeLimit(.minutes(1)))
    func aCompressedBackupIsSmaller() throws {
        let size = 1 << 20
        let source = try images.make("disk", size: size)
        try source.write(Pattern.bytes(stamp: 3, at: 0, count: size / 2).span.bytes, at: 0)
        let target = try targets.make("copy", size: size)
        try BackupJob(source: source, target: target, compress: true).run(JobControl())
        #expect(try Layers.contents(target) == Layers.contents(source))
        #expect(try target.status(at: 0, limit: size).isCompressed)
        try target.close()
        #expect(try #require(targets.store["copy"]).count < size / 2)
        try source.close()
    }

    @Test func unsuitableTargetsAreRefused() throws {
        let source = try images.make("disk", size: 1 << 20)
        let small = try targets.make("small", size: (1 << 20) - 65536)
        let overlay = try images.make("overlay", size: 1 << 20)
        overlay.backing = source
        let raw = try targets.make("raw", "raw", size: 1 << 20)
        let readOnly = try targets.open("raw", "raw", readOnly: true)
        let base = try targets.make("base", size: 1 << 20)
        let over = try images.make("over", size: 1 << 20)
        over.backing = base
        let intoBase = blockError { () throws(BlockError) in
            try BackupJob(source: over, target: base).run(JobControl())
        }
        #expect(intoBase?.kind == .invalidArgument)
        let refusals: [(BlockNode, Bool, BlockError.Kind)] = [
            (small, false, .invalidArgument), (source, false, .invalidArgument),
            (overlay, false, .invalidArgument), (raw, true, .unsupported), (readOnly, false, .readOnly),
        ]
        for (target, compress, kind) in refusals {
            let failure = blockError { () throws(BlockError) in
                try BackupJob(source: source, target: target, compress: compress).run(JobControl())
            }
            #expect(failure?.kind == kind, "\(failure?.message ?? "no error")")
        }
        let unknown = blockError { () throws(BlockError) in
            try BackupJob(source: source, target: raw, sync: .incremental(bitmap: "none")).run(JobControl())
        }
        #expect(unknown?.kind == .notFound)
        // The engine tells before it has started anything.
        let unstarted = blockError { () throws(BlockError) in
            try engine.start(BackupJob(source: source, target: raw, sync: .incremental(bitmap: "none")))
        }
        #expect(unstarted?.kind == .notFound && engine.jobs.isEmpty)
        #expect(source.user == nil && raw.user == nil)
        // Nothing is left that would copy.
        try source.write([1].span.bytes, at: 0)
        #expect(try raw.readBytes(at: 0, count: 1) == [0])
    }

    @Test(.timeLimit(.minutes(1)), arguments: ["cancel", "source", "target"])
    func itEndsWhenItIsCancelledOrItsNodeIsClosed(_ how: String) throws {
        let size = 1 << 20
        let source = try images.makeFilled("disk", size: size, seed: 2)
        let target = try targets.make("copy", size: size)
        let job = try engine.start(BackupJob(source: source, target: target), isPaused: true)
        switch how {
        case "cancel": job.cancel()
        case "source": try source.close()
        default: try target.close()
        }
        #expect(blockError { () throws(BlockError) in try job.wait() }?.kind == .cancelled)
        engine.waitAll()
        if how != "source" {
            // The source is free again, and its writes are copied no more.
            #expect(source.user == nil)
            try source.write([1].span.bytes, at: 0)
            try source.resize(to: 2 << 20)
            try source.close()
        }
        try target.close()
    }

    @Test(.timeLimit(.minutes(1)))
    func pushingOutGoesOnUntilItIsCompleted() throws {
        let size = 1 << 20
        let source = try images.make("disk", "raw", size: size)
        try source.write([UInt8](repeating: 1, count: size).span.bytes, at: 0)
        let target = try targets.make("copy", "raw", size: size)
        let job = try engine.start(BackupJob(source: source, target: target, sync: .none))
        job.control.wait { $0.isReady }
        try source.write([UInt8](repeating: 2, count: 512).span.bytes, at: 70_000)
        try source.writeZeroes(at: 65536 * 3 - 1, count: 2)
        try source.write([UInt8](repeating: 3, count: 512).span.bytes, at: 70_000)
        try job.complete()
        try job.wait()
        var expected = [UInt8](repeating: 0, count: size)
        for index in 65536..<65536 * 4 { expected[index] = 1 }
        #expect(try Layers.contents(target) == expected)
        try source.write([UInt8](repeating: 4, count: 512).span.bytes, at: 0)
        #expect(try target.readBytes(at: 0, count: 1) == [0])
    }
}

extension BackupImages {
    /// What a file has after a power failure that loses everything since its last flush.
    func durableContents(_ name: String) throws -> BackupImages {
        let log = store.log.filter { $0.file == name }
        let end = log.lastIndex { if case .flush = $0 { true } else { false } } ?? 0
        var bytes = SparseBytes()
        for event in log[..<end] {
            switch event {
            case .write(_, let offset, let part): bytes.write(part, at: offset)
            case .zero(_, let range): bytes.zero(range)
            case .truncate(_, let length): bytes.resize(to: length)
            case .flush: break
            }
        }
        return BackupImages(TestStore([name: bytes]))
    }
}
