@testable import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// What a node counts, by a clock that only requests move.
@Suite struct NodeStatisticsTests {
    private let images = TestImages()

    /// Takes the time that the test sets for each request, and fails where it says so.
    private final class SlowFilter: FilterDriver {
        static let name = "slow"
        let child = nullNode()
        let clock = ManualClock()
        let latency = Mutex(0)
        let fails = Mutex(false)

        private func work() throws(BlockError) {
            clock.advance(by: latency.withLock { $0 })
            if fails.withLock({ $0 }) { throw BlockError(.io, "Input/output error", errno: 5) }
        }

        func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) { try work() }
        func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) { try work() }
        func discard(at offset: Int, count: Int) throws(BlockError) { try work() }
        func flush() throws(BlockError) { try work() }
    }

    private func slow() -> (BlockNode, SlowFilter) {
        let filter = SlowFilter()
        let node = BlockNode(.filter(filter), filename: "slow", settings: OpenSettings(readOnly: false))
        node.statistics.clock = filter.clock
        return (node, filter)
    }

    private func read(_ node: BlockNode, _ filter: SlowFilter, taking latency: Int) throws {
        filter.latency.withLock { $0 = latency }
        _ = try node.readBytes(at: 0, count: 512)
    }

    // MARK: Times

    @Test func timesAndIdleTime() throws {
        let (node, filter) = slow()
        try read(node, filter, taking: 10)
        #expect(node.statistics.counts(of: .read).nanoseconds == 0)
        #expect(node.statistics.idleNanoseconds == nil)
        node.statistics.measuresTime = true
        try read(node, filter, taking: 30)
        try read(node, filter, taking: 12)
        try node.discard(at: 0, count: 100)
        #expect(node.statistics.counts(of: .read).nanoseconds == 42)
        #expect(node.statistics.counts(of: .discard).nanoseconds == 12)
        filter.clock.advance(by: 77)
        #expect(node.statistics.idleNanoseconds == 77)
        filter.fails.withLock { $0 = true }
        #expect(throws: BlockError.self) { try read(node, filter, taking: 8) }
        #expect(node.statistics.counts(of: .read).nanoseconds == 50)
        #expect(node.statistics.idleNanoseconds == 0)
        node.statistics.measuresTime = false
        #expect(!node.statistics.measuresTime)
    }

    @Test func histogramsAtTheBorders() throws {
        let (node, filter) = slow()
        let statistics = node.statistics
        #expect(statistics.histogram(of: .read) == nil)
        try statistics.setHistogram(borders: [10, 50, 100], of: .read)
        #expect(statistics.measuresTime)
        for latency in [0, 9, 10, 11, 49, 50, 99, 100, 101, 1_000_000] {
            try read(node, filter, taking: latency)
        }
        #expect(statistics.histogram(of: .read)?.borders == [10, 50, 100])
        #expect(statistics.histogram(of: .read)?.counts == [2, 3, 2, 3])
        #expect(statistics.histogram(of: .write) == nil)
        statistics.reset()
        #expect(statistics.histogram(of: .read)?.counts == [0, 0, 0, 0])
        try statistics.setHistogram(borders: [], of: .read)
        try read(node, filter, taking: 5)
        #expect(statistics.histogram(of: .read)?.counts == [1])
        try statistics.setHistogram(borders: nil, of: .read)
        #expect(statistics.histogram(of: .read) == nil)
        #expect(!statistics.measuresTime)
    }

    @Test(arguments: [[0], [-1], [5, 5], [5, 4], [1, 2, 0]]) func badBorders(_ borders: [Int]) {
        let statistics = nullNode().statistics
        let error = blockError { () throws(BlockError) in
            try statistics.setHistogram(borders: borders, of: .write)
        }
        #expect(error?.kind == .invalidArgument)
        #expect(statistics.histogram(of: .write) == nil)
    }

    @Test func tooManyBordersAndIntervals() {
        let statistics = nullNode().statistics
        let borders = Array(1...LatencyHistogram.maximumBorders + 1)
        #expect(
            blockError { () throws(BlockError) in try statistics.setHistogram(borders: borders, of: .read) }?
                .kind == .limit)
        #expect(
            blockError { () throws(BlockError) in
                try statistics.setIntervals(seconds: Array(1...LatencyWindow.maximumWindows + 1))
            }?.kind == .limit)
        for seconds in [0, -1, LatencyWindow.maximumSeconds + 1] {
            #expect(
                blockError { () throws(BlockError) in try statistics.setIntervals(seconds: [seconds]) }?.kind
                    == .invalidArgument)
        }
        #expect(!statistics.measuresTime)
    }

    @Test func intervals() throws {
        let (node, filter) = slow()
        let (second, ms) = (1_000_000_000, 1_000_000)
        try node.statistics.setIntervals(seconds: [1, 10])
        for latency in [100, 200, 300] { try read(node, filter, taking: latency * ms) }
        func summaries() -> [LatencyWindow.Summary] { node.statistics.intervals(of: .read) }
        // At 0.6 s: one request under way all the time.
        for (summary, seconds) in zip(summaries(), [1, 10]) {
            #expect(
                summary
                    == LatencyWindow.Summary(
                        seconds: seconds, operations: 3, minimum: 100 * ms, maximum: 300 * ms,
                        average: 200 * ms, queueDepth: 1))
        }
        #expect(node.statistics.intervals(of: .write).map(\.operations) == [0, 0])
        // At 1.2 s the short interval begins at 0.3 s, with the end of the second request.
        filter.clock.advance(by: 600 * ms)
        #expect(summaries()[0].operations == 2 && summaries()[1].operations == 3)
        #expect(summaries()[0].minimum == 200 * ms)
        #expect(abs(summaries()[1].queueDepth - 0.5) < 1e-9)
        // At 2 s it is empty; the long one keeps all until 10 s.
        filter.clock.advance(by: 800 * ms)
        #expect(
            summaries()[0]
                == LatencyWindow.Summary(
                    seconds: 1, operations: 0, minimum: 0, maximum: 0, average: 0, queueDepth: 0))
        filter.clock.advance(by: 8 * second - 1)
        #expect(summaries()[1].operations == 3)
        filter.clock.advance(by: 1)
        #expect(summaries()[1].operations == 0)
        try node.statistics.setIntervals(seconds: [])
        #expect(summaries() == [])
    }

    // MARK: Counts

    @Test func resetting() throws {
        let (node, filter) = slow()
        let statistics = node.statistics
        try statistics.setIntervals(seconds: [60])
        try read(node, filter, taking: 5)
        let bytes: [UInt8] = [1, 2, 3]
        try node.write(bytes.span.bytes, at: 7)
        statistics.noteMerged(.write, count: 4)
        filter.fails.withLock { $0 = true }
        _ = blockError { () throws(BlockError) in try node.flush() }
        #expect(statistics.counts(of: .write).merged == 4)
        #expect(statistics.counts(of: .flush).failed == 1)
        #expect(statistics.highestWrittenOffset == 10)
        statistics.reset()
        let none = NodeStatistics.Counts(
            operations: 0, bytes: 0, nanoseconds: 0, merged: 0, failed: 0, invalid: 0)
        for operation in NodeStatistics.Operation.allCases {
            #expect(statistics.counts(of: operation) == none)
            #expect(statistics.intervals(of: operation).map(\.operations) == [0])
        }
        #expect(statistics.highestWrittenOffset == 0)
        #expect(statistics.idleNanoseconds == nil)
        #expect(statistics.measuresTime)
    }

    /// Failed and invalid requests of each kind, in this order: reads, writes, flushes, discards.
    private func bad(_ node: BlockNode) -> [[Int]] {
        NodeStatistics.Operation.allCases.map { operation in
            let counts = node.statistics.counts(of: operation)
            return [counts.failed, counts.invalid]
        }
    }

    /// Makes one request of each kind, all of which fail.
    private func failAll(_ node: BlockNode, at offset: Int, count: Int = 512) throws {
        let bytes = [UInt8](repeating: 1, count: count)
        #expect(
            blockError { () throws(BlockError) in try node.readBytes(at: offset, count: count) } != nil)
        #expect(blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: offset) } != nil)
        #expect(
            blockError { () throws(BlockError) in try node.writeZeroes(at: offset, count: count) } != nil)
        #expect(
            blockError { () throws(BlockError) in
                try node.writeCompressed(bytes.span.bytes, at: offset)
            } != nil)
        #expect(blockError { () throws(BlockError) in try node.discard(at: offset, count: count) } != nil)
    }

    @Test func requestsThatTheNodeRefusesAreInvalid() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk")
        try failAll(node, at: 8000)
        // A fake image is never compressed: that fails, before the range is known.
        #expect(bad(node) == [[0, 1], [1, 2], [0, 0], [0, 1]])
        try failAll(node, at: -1)
        #expect(bad(node) == [[0, 2], [1, 5], [0, 0], [0, 2]])
        let file = try #require(node.file)
        let before = bad(file)
        #expect(before == [[0, 0], [0, 0], [0, 0], [0, 0]])
        try node.close()
        try failAll(node, at: 0)
        #expect(bad(node) == [[0, 3], [1, 8], [0, 0], [0, 3]])
        #expect(bad(file) == before)
        #expect(NodeStatistics.Operation.allCases.allSatisfy { node.statistics.counts(of: $0).bytes == 0 })
    }

    @Test func readOnlyNodesRefuseChanges() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk", readOnly: true)
        let bytes = [UInt8](repeating: 1, count: 4096)
        let place = PlainPlace(storage: images.store.disk("other"), offset: 0, count: 4096)
        #expect(blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: 0) } != nil)
        #expect(blockError { () throws(BlockError) in try node.writeZeroes(at: 0, count: 4096) } != nil)
        #expect(
            blockError { () throws(BlockError) in try node.writeCompressed(bytes.span.bytes, at: 0) } != nil)
        #expect(blockError { () throws(BlockError) in try node.share(place, at: 0, count: 4096) } != nil)
        #expect(blockError { () throws(BlockError) in try node.discard(at: 0, count: 4096) } != nil)
        #expect(bad(node) == [[0, 0], [0, 4], [0, 0], [0, 1]])
        try node.close()
    }

    @Test func requestsThatTheFileFailsHaveFailed() throws {
        try images.create("disk", size: 8192)
        let node = try images.open("disk")
        let file = try #require(node.file)
        let bytes = [UInt8](repeating: 1, count: 4096)
        try node.write(bytes.span.bytes, at: 0)
        images.store.faults.arm(1, .deadFromThen)
        #expect(blockError { () throws(BlockError) in try node.readBytes(at: 0, count: 512) } != nil)
        #expect(blockError { () throws(BlockError) in try node.write(bytes.span.bytes, at: 0) } != nil)
        #expect(blockError { () throws(BlockError) in try node.flush() } != nil)
        images.store.faults.disarm()
        #expect(bad(node) == [[1, 0], [1, 0], [1, 0], [0, 0]])
        #expect(bad(file)[1] == [1, 0] && bad(file)[2] == [1, 0])
        #expect(node.statistics.counts(of: .write).operations == 1)
        try node.close()
    }

    /// A read that fails in the backing file counts once at each layer that it passed.
    @Test func eachLayerCountsAFailedRead() throws {
        images.createRaw("base", size: 8192)
        try images.create("middle", size: 8192, backing: "base")
        try images.create("top", size: 8192, backing: "middle")
        let top = try images.open("top")
        _ = try top.readBytes(at: 0, count: 512)
        images.store.faults.arm(1, .ioErrorOnce)
        #expect(blockError { () throws(BlockError) in try top.readBytes(at: 0, count: 512) } != nil)
        images.store.faults.disarm()
        for node in top.chain {
            #expect(bad(node)[0] == [1, 0], "\(node.filename)")
            #expect(node.statistics.counts(of: .read).operations == 1, "\(node.filename)")
        }
        try top.close()
    }

    @Test func sharedSpaceCountsAsWritten() throws {
        images.store.sharesSpace = true
        images.createRaw("other", size: 8192)
        let file = BlockNode(
            .storage(images.store.disk("disk")), filename: "disk", settings: OpenSettings(readOnly: false))
        let place = PlainPlace(storage: images.store.disk("other"), offset: 0, count: 8192)
        #expect(try file.share(place, at: 4096, count: 4096) == 4096)
        #expect(file.statistics.counts(of: .write).operations == 1)
        #expect(file.statistics.counts(of: .write).bytes == 4096)
        #expect(file.statistics.highestWrittenOffset == 8192)
    }
}
