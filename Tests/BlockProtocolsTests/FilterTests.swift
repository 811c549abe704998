import BlockCore
import BlockFilters
import BlockProtocols
import Foundation
import Synchronization
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

    @Test func theThrottleWaitsForBytesAndOperations() throws {
        let clock = Mutex(0)
        let slept = Mutex<[Int]>([])
        let driver = ThrottleDriver(
            over: memory(), bytes: Throttle(unitsPerSecond: 1000, burstUnits: 100),
            operations: Throttle(unitsPerSecond: 2, burstUnits: 2), now: { clock.withLock { $0 } },
            sleep: { pause in slept.withLock { $0.append(pause) } })
        try driver.put([UInt8](repeating: 1, count: 100), at: 0)
        #expect(slept.withLock { $0 } == [])
        try driver.put([UInt8](repeating: 1, count: 50), at: 100)
        #expect(slept.withLock { $0 } == [50_000_000])
        clock.withLock { $0 = 150_000_000 }
        _ = try driver.bytes(at: 0, 10)
        #expect(slept.withLock { $0.count } == 2)
        #expect(slept.withLock { $0[1] } == 350_000_000)
        #expect(try driver.bytes(at: 149, 2) == [1, 0])
    }

    @Test func theThrottleReallyWaits() throws {
        let driver = ThrottleDriver(
            over: memory(), bytes: Throttle(unitsPerSecond: 100_000, burstUnits: 1))
        let began = ContinuousClock.now
        try driver.put([UInt8](repeating: 1, count: 5000), at: 0)
        #expect(ContinuousClock.now - began >= .milliseconds(49))
    }
}
