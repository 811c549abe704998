import BlockCore
import BlockTestSupport
import Testing

/// Limits on nodes: which requests wait, and what does not wait for them.
@Suite struct NodeLimitsTests {
    private let images = TestImages()

    /// A group of that many bytes a second, with a tenth of that as a burst.
    private func group(_ rate: Int, _ clock: ManualClock) throws -> ThrottleGroup {
        var limits = IOLimits()
        limits.bytes.total.average = rate
        return try ThrottleGroup(limits: limits, clock: clock)
    }

    private func open(size: Int = 1 << 20) throws -> BlockNode {
        try images.create("disk", size: size)
        return try images.open("disk")
    }

    private func bytes(_ count: Int) -> [UInt8] { [UInt8](repeating: 7, count: count) }

    @Test func eachKindOfRequestWaits() throws {
        let clock = ManualClock(movesByItself: true)
        let node = try open()
        try node.setLimits(nil, group: try group(4096, clock))
        let data = bytes(4096)
        let requests: [() throws -> Void] = [
            { try node.write(data.span.bytes, at: 0) }, { _ = try node.readBytes(at: 0, count: 4096) },
            { try node.writeZeroes(at: 0, count: 4096) }, { try node.discard(at: 4096, count: 4096) },
            { try node.write(data.span.bytes, at: 8192) },
        ]
        for (index, request) in requests.enumerated() {
            let before = clock.now()
            try request()
            let waited = clock.now() - before
            // The first one finds empty buckets, the second the tenth of a second that may be left.
            let expected = [0, 900_000_000][min(index, 1)] + (index > 1 ? 100_000_000 : 0)
            #expect(abs(waited - expected) <= 2_500_000, "\(index): \(waited)")
            try node.flush()
            #expect(clock.now() == before + waited)
        }
        try node.close()
    }

    @Test func refusedRequestsDoNotWait() throws {
        let clock = ManualClock()
        let node = try open(size: 8192)
        let group = try group(1, clock)
        try node.setLimits(nil, group: group)
        group.join().wait(.read, bytes: 1000)
        #expect(blockError { () throws(BlockError) in try node.readBytes(at: 8192, count: 1) } != nil)
        #expect(blockError { () throws(BlockError) in try node.discard(at: 1, count: 8192) } != nil)
        try node.close()
    }

    @Test func nodesShareAGroup() throws {
        let clock = ManualClock(movesByItself: true)
        let (first, second) = (nullNode(), nullNode())
        let group = try group(1000, clock)
        for node in [first, second] { try node.setLimits(nil, group: group) }
        #expect(first.throttleGroup === group && second.throttleGroup === group)
        for node in [first, second, first, second] { _ = try node.readBytes(at: 0, count: 500) }
        #expect(clock.now() == 1_400_000_000)
        // One that leaves no longer waits; limits set on one hold for all.
        try first.setLimits(nil)
        for _ in 0..<9 { _ = try first.readBytes(at: 0, count: 500) }
        #expect(clock.now() == 1_400_000_000)
        #expect(first.limits == nil)
        var limits = IOLimits()
        limits.operations.read.average = 7
        try first.setLimits(limits, group: group)
        #expect(second.limits == limits)
    }

    /// Threads that do nothing but read get what the group allows, and no wake-up is lost.
    @Test(.timeLimit(.minutes(1))) func manyThreadsOnTwoNodes() throws {
        let clock = ManualClock(movesByItself: true)
        let nodes = [nullNode(), nullNode()]
        let group = try group(1 << 20, clock)
        for node in nodes { try node.setLimits(nil, group: group) }
        let threads = (0..<8).map { number in
            TestThread {
                for _ in 0..<100 { _ = try nodes[number % 2].readBytes(at: 0, count: 4096) }
            }
        }
        for thread in threads { thread.wait() }
        // All but the last request and a tenth of a second's worth have drained.
        let expected = (799 * 4096 - (1 << 20) / 10) * 1_000_000_000 / (1 << 20)
        #expect(abs(clock.now() - expected) < 1_000_000, "\(clock.now()) instead of \(expected)")
        for node in nodes { #expect(node.statistics.counts(of: .read).operations == 400) }
    }

    /// A node with many requests and one with few: each of the few waits for one of the many at most.
    @Test(.timeLimit(.minutes(1))) func aBusyNodeLeavesRoomForAnother() throws {
        let clock = ManualClock()
        let (busy, quiet) = (nullNode(), nullNode())
        let group = try group(10, clock)
        for node in [busy, quiet] { try node.setLimits(nil, group: group) }
        let begun = Monitor<[String]>([])
        func start(_ name: String, _ node: BlockNode, after waits: Int) {
            _ = TestThread {
                _ = try node.readBytes(at: 0, count: 10)
                begun.withLock { $0.append(name) }
                begun.notifyAll()
            }
            clock.waitForWaits(waits)
        }
        start("busy", busy, after: 0)
        begun.wait(until: { $0.count == 1 }) { _ in }
        for number in 1...4 { start("busy", busy, after: number) }
        for number in 5...6 { start("quiet", quiet, after: number) }
        for number in 2...7 {
            clock.advanceToLaterDeadline()
            begun.wait(until: { $0.count == number }) { _ in }
        }
        #expect(
            begun.withLock { $0 } == ["busy", "busy", "quiet", "busy", "quiet", "busy", "busy"])
    }

    @Test func limitsOfANodesOwn() throws {
        let node = nullNode()
        #expect(node.limits == nil)
        var limits = IOLimits()
        limits.bytes.read.average = 1 << 40
        try node.setLimits(limits)
        #expect(node.limits == limits)
        let group = node.throttleGroup
        limits.bytes.read.average = 0
        try node.setLimits(limits)
        #expect(node.limits == limits && node.throttleGroup === group)
        try node.setLimits(nil)
        #expect(node.limits == nil && node.throttleGroup == nil)
    }

    /// A thread whose request waits for the group of `node`.
    private func waiting(
        _ clock: ManualClock, _ result: Monitor<BlockError?>,
        _ request: @escaping @Sendable () throws(BlockError) -> Void
    ) -> TestThread {
        let thread = TestThread {
            do throws(BlockError) { try request() } catch { result.withLock { $0 = error } }
        }
        clock.waitForWaits(1)
        return thread
    }

    @Test func closingLetsWaitingRequestsGo() throws {
        let clock = ManualClock()
        let node = try open()
        let group = try group(1, clock)
        try node.setLimits(nil, group: group)
        let data = bytes(4096)
        try node.write(data.span.bytes, at: 0)
        let result = Monitor<BlockError?>(nil)
        let thread = waiting(clock, result) { () throws(BlockError) in
            _ = try node.readBytes(at: 0, count: 1)
        }
        try node.close()
        thread.wait()
        #expect(clock.now() == 0)
        // It was let go before or after the node was closed.
        let error = result.withLock { $0 }
        #expect(error == nil || error?.kind == .io)
        #expect(blockError { () throws(BlockError) in try node.readBytes(at: 0, count: 1) }?.kind == .io)
    }

    /// The request holds its range of the format while it waits for the file's limits.
    @Test(arguments: ["drain", "resize", "reopen", "close"]) func drainingLetsRequestsBelowGo(_ what: String)
        throws
    {
        let clock = ManualClock()
        images.createRaw("disk", size: 1 << 20)
        let node = try images.open("disk", format: "raw")
        let file = try #require(node.file)
        try file.setLimits(nil, group: try group(1, clock))
        let data = bytes(4096)
        try node.write(data.span.bytes, at: 0)
        let result = Monitor<BlockError?>(nil)
        let thread = waiting(clock, result) { () throws(BlockError) in
            try node.write(data.span.bytes, at: 8192)
        }
        switch what {
        case "drain": try node.drained {}
        case "resize": try node.resize(to: 2 << 20)
        case "reopen": try node.reopen(readOnly: true)
        default: try node.close()
        }
        thread.wait()
        #expect(clock.now() == 0)
        #expect(result.withLock { $0 } == nil)
        #expect(node.statistics.counts(of: .write).operations == 2)
        // Afterwards the limits hold again.
        guard what == "drain" else { return try node.close() }
        let next = waiting(clock, result) { () throws(BlockError) in
            try node.write(data.span.bytes, at: 8192)
        }
        #expect(!next.isEnded)
        try node.close()
        next.wait()
        #expect(clock.now() == 0)
    }

    @Test func backingNodesWaitForTheirOwn() throws {
        let clock = ManualClock(movesByItself: true)
        images.createRaw("base", size: 16_384)
        try images.create("disk", size: 16_384, backing: "base")
        let node = try images.open("disk")
        let base = try #require(node.backing)
        try base.setLimits(nil, group: try group(1000, clock))
        for _ in 0..<2 { _ = try node.readBytes(at: 0, count: 1000) }
        #expect(clock.now() == 900_000_000)
        try node.close()
    }

    @Test func bytesBehindLimitsAreNotReadDirectly() throws {
        images.createRaw("disk", size: 8192)
        let node = try images.open("disk", format: "raw")
        #expect(try node.plainPlace(at: 0, limit: 512)?.count == 512)
        for limited in [node, try #require(node.file)] {
            try limited.setLimits(IOLimits())
            #expect(try node.plainPlace(at: 0, limit: 512) == nil)
            try limited.setLimits(nil)
        }
        #expect(try node.plainPlace(at: 0, limit: 512)?.count == 512)
        try node.close()
    }
}
