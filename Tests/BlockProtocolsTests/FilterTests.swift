import BlockCore
import BlockFilters
import BlockProtocols
import BlockTestSupport
import Testing

@Suite struct FilterTests {
    @Test func theChosenCallFailsOnce() throws {
        let driver = FaultDriver(over: memory([0, 0, 0, 0]))
        driver.fail(2, of: [.write], with: 5)
        try driver.put([1], at: 0)
        let error = failure { try driver.put([2], at: 1) }
        #expect(error?.kind == .io)
        #expect(error?.errno == 5)
        #expect(error?.offset == 1)
        try driver.put([3], at: 2)
        #expect(try driver.bytes(at: 0, 4) == [1, 0, 3, 0])
        #expect(driver.count(of: .write) == 3)
        #expect(driver.count(of: .read) == 1)
        #expect(driver.pendingFaults.isEmpty)
    }

    @Test func aFaultCanStayAndCountsAllItsKinds() throws {
        let driver = FaultDriver(over: memory([0, 0]))
        driver.fail(3, with: 28, persists: true)
        try driver.put([1], at: 0)
        try driver.flush()
        #expect(failure { try driver.resize(to: 9, preallocation: .off) }?.kind == .noSpace)
        #expect(failure { try driver.flush() }?.errno == 28)
        #expect(try driver.bytes(at: 0, 2) == [1, 0])
        driver.heal()
        try driver.flush()
        #expect(driver.count(of: .flush) == 3)
        #expect(try driver.length() == 2)
    }

    @Test(arguments: FaultDriver.Call.allCases) func everyCallCanFail(call: FaultDriver.Call) throws {
        let driver = FaultDriver(over: memory([1, 2]))
        driver.fail(1, of: [call], with: 5)
        let error = failure {
            switch call {
            case .length: _ = try driver.length()
            case .read: _ = try driver.bytes(at: 0, 1)
            case .write: try driver.put([1], at: 0)
            case .writeZeroes: try driver.writeZeroes(at: 0, count: 1, flags: [])
            case .discard: try driver.discard(at: 0, count: 1)
            case .truncate: try driver.resize(to: 1, preallocation: .off)
            case .flush: try driver.flush()
            case .extent: _ = try driver.extent(at: 0, limit: 1)
            }
        }
        #expect(error?.errno == 5)
        #expect(driver.count(of: call) == 1)
        #expect(try driver.bytes(at: 0, 2) == [1, 2])
    }

    /// The filter's node waits, the filter itself does not; a flush passes.
    @Test func theThrottleWaitsForBytesAndOperations() throws {
        let clock = ManualClock(movesByItself: true)
        var limits = IOLimits()
        limits.bytes.total.average = 1000
        limits.operations.total.average = 20
        let group = try ThrottleGroup(name: "g", limits: limits, clock: clock)
        let node = BlockNode(
            .filter(ThrottleDriver(over: memory(), group: group)), filename: "m", settings: writing())
        try node.write([UInt8](repeating: 1, count: 150).span.bytes, at: 0)
        #expect(clock.now() == 0)
        try node.flush()
        // Of 150 bytes 100 may be left: 50 ms.
        try node.write([UInt8](repeating: 1, count: 1).span.bytes, at: 150)
        #expect(clock.now() == 50_000_000)
        _ = try node.readBytes(at: 0, count: 0)
        // 101 bytes; of 3 operations 2 may be left, and one of them has drained.
        #expect(clock.now() == 51_000_000)
        #expect(try node.readBytes(at: 149, count: 3) == [1, 1, 0])
        #expect(clock.now() == 51_000_000)
        #expect(node.statistics.counts(of: .read).operations == 2)
    }
}
