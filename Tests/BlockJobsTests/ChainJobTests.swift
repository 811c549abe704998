import BlockCore
import BlockProtocols
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockJobs

/// Chains of layers for the jobs that work within one chain.
private enum Chains {
    /// `count` images, each over the one before; sizes, cluster sizes and abilities vary.
    static func make(_ count: Int, _ random: inout SeededRandom) throws -> [Layer] {
        var layers: [Layer] = []
        for index in 0..<count {
            let size = random.number(in: 1..<50) * 8192 + random.number(in: 0..<3) * 512
            var layer = Layers.empty(
                size: size, clusterBytes: [512, 4096, 65536][random.number(in: 0..<3)], name: "dir/l\(index)",
                over: layers.last, hasZeroClusters: random.number(in: 0..<4) > 0)
            layer.driver.state.withLock { state in
                state.backing = layers.last.map { _ in
                    BackingReference(filename: "l\(index - 1)", format: "fake")
                }
            }
            try Layers.fill(&layer, &random, density: random.number(in: 4..<12))
            layers.append(layer)
        }
        return layers
    }
}

@Suite("StreamJob") struct StreamJobTests {
    @Test("streaming everything leaves an image that stands alone", arguments: 0..<40)
    func streamAll(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(random.number(in: 1..<5), &random)
        let top = try #require(layers.last)
        top.driver.clearEvents()
        let control = JobControl()
        try StreamJob(node: top.node).run(control)
        #expect(top.node.backing == nil)
        #expect(top.driver.backing == nil)
        #expect(try Layers.contents(top.node) == top.model)
        if layers.count > 1 {
            #expect(control.progress.done == top.model.count)
            #expect(Array(top.driver.events.suffix(2)) == [.flush, .changeBacking(nil)])
        }
    }

    @Test("streaming down to a base keeps what the base has", arguments: 0..<60)
    func streamToBase(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(random.number(in: 2..<6), &random)
        let top = try #require(layers.last)
        let base = layers[random.number(in: 0..<layers.count - 1)]
        let heldBefore = try Self.held(top)
        try StreamJob(node: top.node, base: base.node).run(JobControl())
        #expect(top.node.backing === base.node)
        #expect(top.driver.backing?.filename == FileNames.lastComponent(base.node.filename))
        #expect(top.driver.backing?.format == "fake")
        #expect(try Layers.contents(top.node) == top.model)
        // Nothing but what the layers between had was pulled.
        let between = layers.drop { $0.node !== base.node }.dropFirst().dropLast()
        if between.isEmpty { #expect(try Self.held(top) == heldBefore) }
    }

    private static func held(_ layer: Layer) throws -> Int {
        layer.driver.state.withLock { $0.clusters.filter { $0 != .unallocated }.count }
    }

    @Test("a middle layer that is shorter hides the base behind zeroes", arguments: [true, false])
    func shortMiddle(hasZeroClusters: Bool) throws {
        var base = Layers.empty(size: 65536, clusterBytes: 4096, name: "base")
        try Layers.write([UInt8](repeating: 1, count: 65536), at: 0, &base)
        let middle = Layers.empty(size: 16384, clusterBytes: 4096, name: "middle", over: base)
        var short = middle
        short.model = Array(base.model[0..<16384])
        let top = Layers.empty(
            size: 65536, clusterBytes: 4096, name: "top", over: short, hasZeroClusters: hasZeroClusters)
        try StreamJob(node: top.node, base: base.node).run(JobControl())
        let expected = Array(base.model[0..<16384]) + [UInt8](repeating: 0, count: 49152)
        #expect(try Layers.contents(top.node) == expected)
    }

    @Test("stopped anywhere it reads the same, and goes on where it stopped", arguments: 0..<20)
    func resume(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(4, &random)
        let top = try #require(layers.last)
        let reference = top.driver.backing
        top.driver.state.withLock { $0.failWritesAfter = random.number(in: 0..<4) }
        let outcome = Result { try StreamJob(node: top.node, base: layers[0].node).run(JobControl()) }
        #expect(try Layers.contents(top.node) == top.model)
        if case .failure = outcome { #expect(top.driver.backing == reference) }
        top.driver.state.withLock { $0.failWritesAfter = nil }
        top.driver.clearEvents()
        try StreamJob(node: top.node, base: layers[0].node).run(JobControl())
        #expect(try Layers.contents(top.node) == top.model)
        #expect(top.node.backing === layers[0].node)
    }

    @Test("what is allocated already is not read again")
    func resumeReadsNothing() throws {
        let probe = ProbeDriver(
            size: 1 << 20, data: [0..<1 << 20], bytes: [UInt8](repeating: 4, count: 1 << 20))
        let base = try Layers.raw(on: probe, name: "base", readOnly: true)
        let below = Layer(
            node: base, driver: Layers.empty(size: 0, clusterBytes: 512, name: "").driver,
            model: [UInt8](repeating: 4, count: 1 << 20))
        var top = Layers.empty(size: 1 << 20, clusterBytes: 65536, name: "top", over: below)
        try Layers.write([UInt8](repeating: 5, count: 1 << 19), at: 0, &top)
        try StreamJob(node: top.node).run(JobControl())
        #expect(probe.state.withLock { $0.readBytes } == 1 << 19)
        #expect(try Layers.contents(top.node) == top.model)
    }

    @Test("a base name of the caller's is what the image states")
    func baseName() throws {
        var random = SeededRandom(seed: 3)
        let layers = try Chains.make(3, &random)
        try StreamJob(node: layers[2].node, base: layers[0].node, baseName: "/srv/base.img").run(JobControl())
        #expect(layers[2].driver.backing == BackingReference(filename: "/srv/base.img", format: "fake"))
    }

    @Test("a node that is not below is refused, a busy one too")
    func refusals() throws {
        var random = SeededRandom(seed: 4)
        let layers = try Chains.make(3, &random)
        let stranger = Layers.empty(size: 512, clusterBytes: 512, name: "stranger")
        let notBelow = #expect(throws: BlockError.self) {
            try StreamJob(node: layers[2].node, base: stranger.node).run(JobControl())
        }
        #expect(notBelow?.kind == .invalidArgument)
        try layers[2].node.beginUse(NodeUse(by: "backup"))
        let busy = #expect(throws: BlockError.self) { try StreamJob(node: layers[2].node).run(JobControl()) }
        #expect(busy?.kind == .busy)
    }

    @Test("cancelled, the chain stays as it was and reads the same")
    func cancel() throws {
        var random = SeededRandom(seed: 5)
        let layers = try Chains.make(3, &random)
        let control = JobControl()
        control.cancel()
        let error = #expect(throws: BlockError.self) { try StreamJob(node: layers[2].node).run(control) }
        #expect(error?.kind == .cancelled)
        #expect(layers[2].node.backing === layers[1].node)
        #expect(try Layers.contents(layers[2].node) == layers[2].model)
        #expect(layers[2].node.user == nil)
    }
}

@Suite("CommitJob") struct CommitJobTests {
    @Test("committing into the next image empties the top and changes nothing above", arguments: 0..<50)
    func commit(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(random.number(in: 2..<5), &random)
        let (top, base) = (layers[layers.count - 1], layers[layers.count - 2])
        let expectedBase = top.model + base.model.dropFirst(top.model.count)
        base.driver.clearEvents()
        top.driver.clearEvents()
        try CommitJob(top: top.node).run(JobControl())
        #expect(try Layers.contents(base.node) == Array(expectedBase))
        #expect(try Layers.contents(top.node) == top.model)
        // The top gives nothing up before the base has it durably.
        let (wroteAt, flushedAt) = base.driver.state.withLock { ($0.wroteAt, $0.flushedAt) }
        #expect(wroteAt < flushedAt)
        #expect(flushedAt < top.driver.state.withLock { $0.emptiedAt })
        #expect(top.driver.events.last == .makeEmpty)
    }

    @Test("committing deeper merges the layers between, which keep their files", arguments: 0..<40)
    func commitDeep(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(4, &random)
        let (top, base) = (layers[3], layers[random.number(in: 0..<2)])
        let between = layers.drop { $0.node !== base.node }.dropFirst().dropLast()
        let files = between.map { $0.driver.state.withLock { $0.clusters } }
        try CommitJob(top: top.node, base: base.node, emptiesTop: false).run(JobControl())
        let expectedBase = top.model + base.model.dropFirst(top.model.count)
        #expect(try Layers.contents(base.node) == Array(expectedBase))
        #expect(try Layers.contents(top.node) == top.model)
        #expect(between.map { $0.driver.state.withLock { $0.clusters } } == files)
    }

    @Test("the base is written only while the job runs")
    func readOnlyBase() throws {
        let base = Layers.empty(size: 8192, clusterBytes: 4096, name: "base", readOnly: true)
        var top = Layers.empty(size: 8192, clusterBytes: 4096, name: "top", over: base)
        try Layers.write([UInt8](repeating: 6, count: 4096), at: 4096, &top)
        try CommitJob(top: top.node, emptiesTop: false).run(JobControl())
        #expect(base.node.isReadOnly)
        #expect(try Layers.contents(base.node) == top.model)
        #expect(top.driver.state.withLock { $0.clusters.last != .unallocated })
    }

    @Test("a failed write leaves the top full and readable", arguments: 0..<20)
    func failure(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(3, &random)
        let before = layers[2].driver.state.withLock { $0.clusters }
        layers[1].driver.state.withLock { $0.failWritesAfter = seed % 3 }
        let outcome = Result { try CommitJob(top: layers[2].node).run(JobControl()) }
        layers[1].driver.state.withLock { $0.failWritesAfter = nil }
        #expect(try Layers.contents(layers[2].node) == layers[2].model)
        if case .failure = outcome {
            let after = layers[2].driver.state.withLock { $0.clusters }
            let keepsAll = zip(before, after).allSatisfy { $0 == .unallocated || $0 == $1 }
            #expect(keepsAll)
        }
        try CommitJob(top: layers[2].node).run(JobControl())
        #expect(try Layers.contents(layers[2].node) == layers[2].model)
    }

    @Test("an image without a backing file cannot be committed")
    func noBacking() throws {
        let lone = Layers.empty(size: 4096, clusterBytes: 4096, name: "lone")
        let error = #expect(throws: BlockError.self) { try CommitJob(top: lone.node).run(JobControl()) }
        #expect(error?.kind == .notFound)
        #expect(error?.message == "Image does not have a backing file")
    }

    @Test("the top cannot be emptied into an image further down")
    func deepEmptying() throws {
        var random = SeededRandom(seed: 6)
        let layers = try Chains.make(3, &random)
        let error = #expect(throws: BlockError.self) {
            try CommitJob(top: layers[2].node, base: layers[0].node).run(JobControl())
        }
        #expect(error?.kind == .invalidArgument)
    }
}

@Suite("RebaseJob") struct RebaseJobTests {
    @Test("another backing chain, the same contents", arguments: 0..<80)
    func rebase(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(random.number(in: 1..<4), &random)
        let top = try #require(layers.last)
        let other = try #require(try Chains.make(random.number(in: 1..<3), &random).last)
        let reference = BackingReference(filename: "other", format: "fake")
        top.driver.clearEvents()
        try RebaseJob(node: top.node, backing: other.node, reference: reference, compress: seed % 2 == 0)
            .run(JobControl())
        #expect(top.node.backing === other.node)
        #expect(top.driver.backing == reference)
        #expect(try Layers.contents(top.node) == top.model)
        #expect(Array(top.driver.events.suffix(2)) == [.flush, .changeBacking(reference)])
    }

    @Test("onto an image of its own chain nothing is taken that both have", arguments: 0..<40)
    func withinChain(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(4, &random)
        let (top, base) = (layers[3], layers[random.number(in: 0..<3)])
        let readBefore = base.node.statistics.counts(of: .read).bytes
        try RebaseJob(
            node: top.node, backing: base.node,
            reference: BackingReference(filename: base.node.filename, format: "fake")
        ).run(JobControl())
        if base.node === layers[2].node {
            #expect(base.node.statistics.counts(of: .read).bytes == readBefore)
        }
        #expect(top.node.backing === base.node)
        #expect(try Layers.contents(top.node) == top.model)
    }

    @Test("onto nothing everything needed is pulled in", arguments: 0..<40)
    func toNothing(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(random.number(in: 1..<4), &random)
        let top = try #require(layers.last)
        try RebaseJob(node: top.node, backing: nil, reference: nil, compress: seed % 2 == 0).run(JobControl())
        #expect(top.node.backing == nil)
        #expect(top.driver.backing == nil)
        #expect(try Layers.contents(top.node) == top.model)
    }

    @Test("equal contents are not copied")
    func equalBases() throws {
        var random = SeededRandom(seed: 9)
        let bytes = random.bytes(1 << 18)
        var one = Layers.empty(size: 1 << 18, clusterBytes: 65536, name: "one")
        var two = Layers.empty(size: 1 << 18, clusterBytes: 4096, name: "two")
        try Layers.write(bytes, at: 0, &one)
        try Layers.write(bytes, at: 0, &two)
        try Layers.write([1], at: 70_000, &two)
        let top = Layers.empty(size: 1 << 18, clusterBytes: 4096, name: "top", over: one)
        try RebaseJob(
            node: top.node, backing: two.node, reference: BackingReference(filename: "two", format: "fake")
        ).run(JobControl())
        #expect(try Layers.contents(top.node) == bytes)
        let clusters = top.driver.state.withLock { $0.clusters }
        let held = clusters.indices.filter { clusters[$0] != .unallocated }
        #expect(held == [17])
    }

    @Test("a failed write leaves the old backing file", arguments: 0..<20)
    func failure(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layers = try Chains.make(3, &random)
        let other = try #require(try Chains.make(1, &random).last)
        let top = layers[2]
        let reference = top.driver.backing
        let job = RebaseJob(
            node: top.node, backing: other.node, reference: BackingReference(filename: "o", format: "fake"))
        top.driver.state.withLock { $0.failWritesAfter = seed % 4 }
        let outcome = Result { try job.run(JobControl()) }
        top.driver.state.withLock { $0.failWritesAfter = nil }
        #expect(try Layers.contents(top.node) == top.model)
        guard case .failure = outcome else { return }
        #expect(top.driver.backing == reference)
        #expect(top.node.backing === layers[1].node)
        try job.run(JobControl())
        #expect(try Layers.contents(top.node) == top.model)
    }

    @Test("what has to be written is compressed when that is asked for")
    func compresses() throws {
        var old = Layers.empty(size: 1 << 16, clusterBytes: 4096, name: "old")
        try Layers.write([UInt8](repeating: 8, count: 100), at: 8192, &old)
        let top = Layers.empty(size: 1 << 16, clusterBytes: 4096, name: "top", over: old)
        try RebaseJob(node: top.node, backing: nil, reference: nil, compress: true).run(JobControl())
        #expect(top.driver.events == [.compressed(8192), .flush, .changeBacking(nil)])
        #expect(try Layers.contents(top.node) == old.model)
    }
}
