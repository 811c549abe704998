import BlockCore
import BlockProtocols
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockJobs

@Suite("ConvertJob") struct ConvertJobTests {
    /// A chain of three images of different sizes and cluster sizes.
    static func chain(_ random: inout SeededRandom) throws -> Layer {
        let sizes = [random.number(in: 1..<40), random.number(in: 1..<60), random.number(in: 20..<60)]
        let units = [512, 4096, 65536]
        var below: Layer?
        for (index, size) in sizes.enumerated() {
            let unit = units[random.number(in: 0..<3)]
            var layer = Layers.empty(
                size: size * 8192 + random.number(in: 0..<3) * 512, clusterBytes: unit, name: "l\(index)",
                over: below, hasZeroClusters: random.number(in: 0..<4) > 0)
            try Layers.fill(&layer, &random)
            below = layer
        }
        return try #require(below)
    }

    static func emptyTarget(_ size: Int, _ random: inout SeededRandom) throws -> Layer {
        Layers.empty(size: size, clusterBytes: [512, 4096, 65536][random.number(in: 0..<3)], name: "target")
    }

    @Test("random chains come out as their models, whatever the options", arguments: 0..<60)
    func randomChains(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let source = try Self.chain(&random)
        try #require(try Layers.contents(source.node) == source.model)
        let target = try Self.emptyTarget(source.model.count, &random)
        var options = ConvertJob.Options()
        options.workers = random.number(in: 1..<5)
        options.outOfOrder = seed % 3 == 0
        options.compress = seed % 2 == 0
        options.targetIsZero = random.number(in: 0..<2) == 0
        options.sparseBytes = [0, 512, 4096, 65536][random.number(in: 0..<4)]
        options.measuresFirst = seed % 5 == 0
        let control = JobControl()
        try ConvertJob(sources: [source.node], target: target.node, options: options).run(control)
        #expect(try Layers.contents(target.node) == source.model)
        #expect(control.progress.done == control.progress.total)
        #expect(target.driver.events.last == .flush)
        if options.sparseBytes == 0 {
            let clusters = target.driver.state.withLock { $0.clusters }
            #expect(clusters.allSatisfy { $0 != .unallocated && $0 != .zero })
        }
    }

    @Test("an old target with other contents is overwritten, zeroes too", arguments: 0..<20)
    func oldTarget(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let source = try Self.chain(&random)
        var target = try Self.emptyTarget(source.model.count + 65536, &random)
        try Layers.write(random.bytes(target.model.count), at: 0, &target)
        var options = ConvertJob.Options()
        options.compress = seed % 2 == 0
        try ConvertJob(sources: [source.node], target: target.node, options: options).run(JobControl())
        let expected = source.model + target.model[source.model.count...]
        #expect(try Layers.contents(target.node) == expected)
    }

    @Test("several sources follow each other, units that span them included", arguments: 0..<20)
    func concatenation(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let parts = [try Self.chain(&random), try Self.chain(&random), try Self.chain(&random)]
        let expected = parts.flatMap(\.model)
        let target = try Self.emptyTarget(expected.count, &random)
        var options = ConvertJob.Options()
        options.targetIsZero = true
        try ConvertJob(sources: parts.map(\.node), target: target.node, options: options).run(JobControl())
        #expect(try Layers.contents(target.node) == expected)
    }

    @Test("with a backing target only the top layer is copied", arguments: 0..<30)
    func backingTarget(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let source = try Self.chain(&random)
        let below = try #require(source.node.backing)
        let shared = Layer(node: below, driver: source.driver, model: try Layers.contents(below))
        let target = Layers.empty(
            size: source.model.count, clusterBytes: 4096, name: "target", over: shared,
            hasZeroClusters: seed % 3 > 0)
        var options = ConvertJob.Options()
        options.skipsBacking = true
        try ConvertJob(sources: [source.node], target: target.node, options: options).run(JobControl())
        #expect(try Layers.contents(target.node) == source.model)
        if source.driver.clusterBytes >= 4096, source.model.count <= shared.model.count {
            let copied = target.driver.state.withLock { $0.clusters.filter { $0 != .unallocated }.count }
            let unit = source.driver.clusterBytes
            let held = source.driver.state.withLock { $0.clusters.filter { $0 != .unallocated }.count }
            #expect(copied <= held * (unit / 4096))
        }
    }

    @Test("ordered writes make the same layout every time")
    func determinism() throws {
        var layouts: [[FakeDriver.Cluster]] = []
        for round in 0..<6 {
            var random = SeededRandom(seed: 77)
            var source = Layers.empty(size: 6 << 20, clusterBytes: 65536, name: "s")
            try Layers.fill(&source, &random)
            let target = Layers.empty(size: 6 << 20, clusterBytes: 4096, name: "t")
            var options = ConvertJob.Options()
            options.targetIsZero = true
            options.workers = 1 + round
            try ConvertJob(sources: [source.node], target: target.node, options: options).run(JobControl())
            layouts.append(target.driver.state.withLock { $0.clusters })
        }
        #expect(layouts.allSatisfy { $0 == layouts[0] })
    }

    @Test("an empty disk of 1 TiB takes a few questions and no reads or writes")
    func emptyTebibyte() throws {
        let probe = ProbeDriver(size: 1 << 40, data: [1 << 39..<(1 << 39) + 65536])
        let source = try Layers.raw(on: probe, readOnly: true)
        let sink = ProbeDriver(size: 1 << 40)
        let target = try Layers.raw(on: sink)
        var options = ConvertJob.Options()
        options.targetIsZero = true
        let began = ContinuousClock.now
        try ConvertJob(sources: [source], target: target, options: options).run(JobControl())
        #expect(ContinuousClock.now - began < .seconds(1))
        #expect(probe.state.withLock { $0.extentCalls } < 10)
        #expect(probe.state.withLock { $0.readBytes } == 65536)
        #expect(sink.state.withLock { $0.writes }.isEmpty)
    }

    @Test("only data is read, only what is not zero is written")
    func readsOnlyData() throws {
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        for index in 262_144..<270_336 { bytes[index] = 7 }
        let probe = ProbeDriver(size: 1 << 20, data: [262_144..<327_680], bytes: bytes)
        let sink = ProbeDriver(size: 1 << 20)
        var options = ConvertJob.Options()
        options.targetIsZero = true
        try ConvertJob(
            sources: [try Layers.raw(on: probe, readOnly: true)], target: try Layers.raw(on: sink),
            options: options
        ).run(JobControl())
        #expect(probe.state.withLock { $0.readBytes } == 65536)
        #expect(sink.state.withLock { $0.writes } == [262_144..<270_336])
        #expect(sink.state.withLock { $0.zeroed }.isEmpty)
    }

    @Test("runs of zeroes shorter than the sparse size are written", arguments: [4096, 8192, 16384])
    func sparseSize(sparse: Int) throws {
        var bytes = [UInt8](repeating: 1, count: 65536)
        for index in 8192..<16384 { bytes[index] = 0 }
        let sink = ProbeDriver(size: 65536)
        var options = ConvertJob.Options()
        options.targetIsZero = true
        options.sparseBytes = sparse
        try ConvertJob(sources: [try Layers.raw(bytes)], target: try Layers.raw(on: sink), options: options)
            .run(JobControl())
        let expected = sparse > 8192 ? [0..<65536] : [0..<8192, 16384..<65536]
        #expect(sink.state.withLock { $0.writes } == expected)
    }

    @Test("a target that is too small is refused before anything is written")
    func smallTarget() throws {
        let target = Layers.empty(size: 4096, clusterBytes: 4096, name: "t")
        let error = #expect(throws: BlockError.self) {
            try ConvertJob(sources: [try Layers.raw([UInt8](repeating: 1, count: 8192))], target: target.node)
                .run(JobControl())
        }
        #expect(error?.kind == .invalidArgument)
        #expect(target.driver.events.isEmpty)
    }

    @Test("compression needs a format that has it")
    func noCompression() throws {
        var options = ConvertJob.Options()
        options.compress = true
        let error = #expect(throws: BlockError.self) {
            try ConvertJob(
                sources: [try Layers.raw([1])], target: try Layers.raw([0]), options: options
            ).run(JobControl())
        }
        #expect(error?.kind == .unsupported)
    }

    @Test("offloading copies what the system can, and reads the rest", arguments: [0, 5000, 1 << 20])
    func offload(limit: Int) throws {
        var random = SeededRandom(seed: 5)
        let bytes = random.bytes(300_000 / 512 * 512)
        let probe = ProbeDriver(size: bytes.count, data: [0..<bytes.count], bytes: bytes)
        let sink = ProbeDriver(size: bytes.count)
        sink.state.withLock { $0.copyLimit = limit }
        var options = ConvertJob.Options()
        options.offload = true
        options.targetIsZero = true
        try ConvertJob(
            sources: [try Layers.raw(on: probe, readOnly: true)], target: try Layers.raw(on: sink),
            options: options
        ).run(JobControl())
        #expect(sink.state.withLock { $0.bytes } == bytes)
        #expect(sink.state.withLock { $0.copied > 0 } == (limit > 0))
        #expect(probe.state.withLock { $0.readBytes == 0 } == (limit == 1 << 20))
    }

    @Test("a zero run of a stream target is written out")
    func streamTarget() throws {
        let probe = ProbeDriver(
            size: 3 << 20, data: [1 << 20..<2 << 20],
            bytes: [UInt8](repeating: 0, count: 1 << 20) + [UInt8](repeating: 9, count: 1 << 20))
        let sink = ProbeDriver(size: 3 << 20)
        var options = ConvertJob.Options()
        options.isStream = true
        try ConvertJob(
            sources: [try Layers.raw(on: probe, readOnly: true)], target: try Layers.raw(on: sink),
            options: options
        ).run(JobControl())
        let writes = sink.state.withLock { $0.writes }
        #expect(writes.first?.lowerBound == 0 && writes.last?.upperBound == 3 << 20)
        #expect(zip(writes, writes.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound })
        #expect(probe.state.withLock { $0.readBytes } == 1 << 20)
    }
}

@Suite("ConvertJob in trouble") struct ConvertTroubleTests {
    @Test("a read error ends the job, names the offset, and stops the other threads")
    func readError() throws {
        let bytes = [UInt8](repeating: 3, count: 8 << 20)
        let probe = ProbeDriver(size: bytes.count, data: [0..<bytes.count], bytes: bytes)
        probe.state.withLock { $0.unreadable = [5_000_000..<5_000_001] }
        let error = #expect(throws: BlockError.self) {
            try ConvertJob(
                sources: [try Layers.raw(on: probe, readOnly: true)],
                target: try Layers.raw(on: ProbeDriver(size: bytes.count))
            ).run(JobControl())
        }
        #expect(error?.kind == .io)
        #expect(error?.message == "error while reading at byte 4194304: Input/output error")
    }

    @Test("a write error is the one that is reported", arguments: 0..<6)
    func writeError(after: Int) throws {
        let target = Layers.empty(size: 8 << 20, clusterBytes: 65536, name: "t")
        target.driver.state.withLock { $0.failWritesAfter = after }
        let error = #expect(throws: BlockError.self) {
            try ConvertJob(
                sources: [try Layers.raw([UInt8](repeating: 1, count: 8 << 20))], target: target.node
            )
            .run(JobControl())
        }
        #expect(error?.kind == .noSpace)
        #expect(error?.message == "error while writing at byte \(after << 20): No space left on device")
    }

    @Test("salvaging turns exactly the unreadable sectors into zeroes and names them")
    func salvage() throws {
        var random = SeededRandom(seed: 2)
        let bytes = random.bytes(3 << 20)
        let probe = ProbeDriver(size: bytes.count, data: [0..<bytes.count], bytes: bytes)
        probe.state.withLock { $0.unreadable = [700..<1100, 2_000_000..<2_000_001] }
        let lost = Mutex<[Range<Int>]>([])
        var options = ConvertJob.Options()
        options.onUnreadable = { range, _ in lost.withLock { $0.append(range) } }
        let sink = ProbeDriver(size: bytes.count, data: [0..<bytes.count], bytes: random.bytes(bytes.count))
        try ConvertJob(
            sources: [try Layers.raw(on: probe, readOnly: true)], target: try Layers.raw(on: sink),
            options: options
        ).run(JobControl())
        let expectedLost = [512..<1536, 1_999_872..<2_000_384]
        #expect(lost.withLock { $0.sorted { $0.lowerBound < $1.lowerBound } } == expectedLost)
        var expected = bytes
        for range in expectedLost {
            expected.replaceSubrange(range, with: repeatElement(0, count: range.count))
        }
        #expect(sink.state.withLock { $0.bytes } == expected)
    }

    @Test("cancelling ends the job with kind cancelled")
    func cancel() throws {
        let control = Mutex<JobControl?>(nil)
        let job = JobControl(onProgress: { progress in
            if progress.done >= 2 << 20 { control.withLock { $0 }?.cancel() }
        })
        control.withLock { $0 = job }
        let target = Layers.empty(size: 64 << 20, clusterBytes: 65536, name: "t")
        let error = #expect(throws: BlockError.self) {
            try ConvertJob(
                sources: [try Layers.raw([UInt8](repeating: 1, count: 64 << 20))], target: target.node
            ).run(job)
        }
        #expect(error?.kind == .cancelled)
        #expect(job.progress.done < 32 << 20)
    }

    @Test("a paused job does nothing until it is resumed")
    func pause() throws {
        let progress = Monitor(JobControl().progress)
        let control = JobControl(
            onProgress: { now in
                progress.withLock { $0 = now }
                progress.notifyAll()
            })
        control.pause()
        let target = Layers.empty(size: 4 << 20, clusterBytes: 65536, name: "t")
        let source = try Layers.raw([UInt8](repeating: 1, count: 4 << 20))
        let before = Mutex(-1)
        try WorkerThreads.run(2) { (index) throws(BlockError) in
            if index == 0 {
                try ConvertJob(sources: [source], target: target.node).run(control)
            } else {
                progress.wait(until: { $0.total > 0 }) { _ in }
                _ = progress.wait(forNanoseconds: 50_000_000, until: { $0.done > 0 })
                before.withLock { $0 = target.driver.events.count }
                control.resume()
            }
        }
        #expect(before.withLock { $0 } == 0)
        #expect(try Layers.contents(target.node) == [UInt8](repeating: 1, count: 4 << 20))
    }

    @Test("the rate limit holds on an injected clock")
    func rate() throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(bytesPerSecond: 1 << 20, clock: clock)
        let target = Layers.empty(size: 10 << 20, clusterBytes: 65536, name: "t")
        var options = ConvertJob.Options()
        options.workers = 1
        try ConvertJob(
            sources: [try Layers.raw([UInt8](repeating: 1, count: 10 << 20))], target: target.node,
            options: options
        ).run(control)
        let seconds = Double(clock.now()) / 1e9
        #expect(seconds > 9.5 && seconds < 10.5)
    }
}
