import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// Waiting for limits, on a clock that the test moves.
@Suite struct ThrottleGroupTests {
    private static let slice = 100_000_000

    private func limits(_ change: (inout IOLimits) -> Void) -> IOLimits {
        var limits = IOLimits()
        change(&limits)
        return limits
    }

    /// The units that begin in each tenth of a second, while one thread makes requests without a pause.
    private func units(
        _ limits: IOLimits, requestBytes: Int, slices: Int, _ direction: (Int) -> IOLimits.Direction
    ) throws -> [Int] {
        let clock = ManualClock(movesByItself: true)
        let member = try ThrottleGroup(limits: limits, clock: clock).join()
        var units = [Int](repeating: 0, count: slices)
        var number = 0
        while true {
            member.wait(direction(number), bytes: requestBytes)
            number += 1
            let slice = clock.now() / Self.slice
            if slice >= slices { return units }
            units[slice] += requestBytes
            // A limit that is not kept must not keep the test going.
            guard number < 1_000_000 else { return units }
        }
    }

    private func expectRate(_ units: ArraySlice<Int>, _ rate: Int, _ place: SourceLocation = #_sourceLocation)
    {
        for start in units.indices.dropLast(9) {
            let sum = units[start..<start + 10].reduce(0, +)
            #expect(abs(sum - rate) <= rate / 20, "\(sum) from slice \(start) on", sourceLocation: place)
        }
    }

    // MARK: Rates

    @Test(arguments: [1 << 20, 10_000_000, 333_333], [512, 16_384]) func bytes(_ rate: Int, _ size: Int)
        throws
    {
        let limits = limits { $0.bytes.total.average = rate }
        let units = try units(limits, requestBytes: size, slices: 40) { $0 % 2 == 0 ? .read : .write }
        expectRate(units[1...], rate)
        // What a pause allows: a tenth of a second's worth and one request.
        #expect(units[0] <= rate / 5 + 2 * size)
    }

    @Test func operations() throws {
        let limits = limits { $0.operations.write.average = 200 }
        let written = try units(limits, requestBytes: 1, slices: 40) { _ in .write }
        expectRate(written[1...], 200)
    }

    /// Requests of 6 KiB count as one and a half, those of 1 KiB as one.
    @Test func operationsOfASize() throws {
        let limits = limits {
            $0.operations.total.average = 300
            $0.operationBytes = 4096
        }
        for (size, rate) in [(6144, 200 * 6144), (1024, 300 * 1024)] {
            let units = try units(limits, requestBytes: size, slices: 40) { _ in .read }
            expectRate(units[1...], rate)
        }
    }

    @Test func directionsHaveLimitsOfTheirOwn() throws {
        let clock = ManualClock(movesByItself: true)
        let limits = limits { $0.bytes.read.average = 1000 }
        let member = try ThrottleGroup(limits: limits, clock: clock).join()
        for _ in 0..<100 { member.wait(.write, bytes: 1 << 30) }
        #expect(clock.now() == 0)
        for _ in 0..<2 { member.wait(.read, bytes: 1000) }
        #expect(clock.now() == 900_000_000)
    }

    @Test func noLimitNeverWaits() throws {
        let clock = ManualClock()
        let group = try ThrottleGroup(clock: clock)
        let member = group.join()
        for size in [0, 1, Int.max, -5] { member.wait(.read, bytes: size) }
        #expect(group.limits.isUnlimited)
    }

    @Test func strangeSizesDoNotTrap() throws {
        let clock = ManualClock(movesByItself: true)
        let limits = limits { $0.bytes.total.average = 1 }
        let member = try ThrottleGroup(limits: limits, clock: clock).join()
        for size in [-1, Int.max, 1] { member.wait(.read, bytes: size) }
        #expect(abs(clock.now() - 100_000_000_000_000_000) < 1000)
    }

    // MARK: Bursts

    /// With a length of one second the whole burst passes at once.
    @Test func aBurstAtOnce() throws {
        let limits = limits { $0.bytes.total = .init(average: 1000, maximum: 5000) }
        let units = try units(limits, requestBytes: 100, slices: 30) { _ in .read }
        #expect((5000...5300).contains(units[0]))
        expectRate(units[1...], 1000)
    }

    /// 5000 a second until the excess of 4000 a second has used up what three seconds allow.
    @Test func aBurstOfSomeSeconds() throws {
        let limits = limits { $0.bytes.total = .init(average: 1000, maximum: 5000, burstSeconds: 3) }
        let units = try units(limits, requestBytes: 50, slices: 80) { _ in .read }
        expectRate(units[1..<36], 5000)
        expectRate(units[37...], 1000)
        // 15,000 at 4000 a second more than drains, less the tenth of a second that passed at once.
        #expect((18_000...19_000).contains(units[..<37].reduce(0, +)))
    }

    // MARK: Order

    /// Threads that wait for a group, one request each, in the order in which they begin.
    private final class Waiters: Sendable {
        let clock = ManualClock()
        let begun = Monitor<[String]>([])
        let count = Mutex(0)

        /// Starts a thread, and waits until it waits.
        func start(_ name: String, _ member: ThrottleMember, _ direction: IOLimits.Direction) {
            let number = count.withLock { count in
                count += 1
                return count
            }
            _ = TestThread { [self] in
                member.wait(direction, bytes: 1)
                begun.withLock { $0.append(name) }
                begun.notifyAll()
            }
            clock.waitForWaits(number - begun.withLock { $0.count })
        }

        /// Lets one after the other begin.
        func order() -> [String] {
            for number in 1...count.withLock({ $0 }) {
                clock.advanceToLaterDeadline()
                begun.wait(until: { $0.count >= number }) { _ in }
            }
            return begun.withLock { $0 }
        }
    }

    @Test func firstComeFirstServedAndMembersTakeTurns() throws {
        let waiters = Waiters()
        let group = try ThrottleGroup(
            limits: limits { $0.operations.total.average = 1 }, clock: waiters.clock)
        let members = [group.join(), group.join(), group.join()]
        members[0].wait(.read, bytes: 1)
        for name in ["a1", "a2", "a3", "a4"] { waiters.start(name, members[0], .read) }
        for name in ["b1", "b2"] { waiters.start(name, members[1], .read) }
        waiters.start("c1", members[2], .read)
        #expect(waiters.order() == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"])
    }

    @Test func readsAndWritesTakeTurns() throws {
        let waiters = Waiters()
        let group = try ThrottleGroup(
            limits: limits { $0.operations.total.average = 1 }, clock: waiters.clock)
        let member = group.join()
        member.wait(.read, bytes: 1)
        for name in ["r1", "r2", "r3"] { waiters.start(name, member, .read) }
        for name in ["w1", "w2", "w3"] { waiters.start(name, member, .write) }
        #expect(waiters.order() == ["w1", "r1", "w2", "r2", "w3", "r3"])
    }

    // MARK: Changes

    @Test func waitingRequestsAreReckonedAnew() throws {
        let waiters = Waiters()
        let group = try ThrottleGroup(
            limits: limits { $0.operations.total.average = 1 }, clock: waiters.clock)
        let member = group.join()
        member.wait(.read, bytes: 1)
        waiters.start("a", member, .read)
        waiters.start("b", member, .read)
        // The first one begins, as after a pause; the second waits for it.
        try group.setLimits(limits { $0.operations.total.average = 5 })
        waiters.begun.wait(until: { $0.count >= 1 }) { _ in }
        #expect(waiters.clock.now() == 0)
        #expect(waiters.begun.withLock { $0 } == ["a"])
        waiters.start("c", member, .write)
        try group.setLimits(IOLimits())
        waiters.begun.wait(until: { $0.count >= 3 }) { _ in }
        #expect(waiters.clock.now() == 0)
        #expect(group.limits.isUnlimited)
    }

    @Test func refusedLimitsChangeNothing() throws {
        let group = try ThrottleGroup(name: "g", limits: limits { $0.bytes.read.average = 5 })
        let error = blockError { () throws(BlockError) in
            try group.setLimits(limits { $0.bytes.read.maximum = 5 })
        }
        #expect(error?.kind == .invalidArgument)
        #expect(group.limits == limits { $0.bytes.read.average = 5 })
    }

    @Test func aPassingMemberDoesNotWaitAndStillCounts() throws {
        let waiters = Waiters()
        let group = try ThrottleGroup(
            limits: limits { $0.operations.total.average = 10 }, clock: waiters.clock)
        let (first, second) = (group.join(), group.join())
        for _ in 0..<2 { first.wait(.read, bytes: 1) }
        waiters.start("a", first, .read)
        waiters.start("b", second, .read)
        second.beginPassing()
        waiters.begun.wait(until: { $0 == ["b"] }) { _ in }
        second.wait(.read, bytes: 1)
        second.endPassing()
        #expect(waiters.clock.now() == 0)
        // Four operations; one may be left.
        waiters.clock.advance(by: 200_000_000)
        #expect(waiters.begun.withLock { $0 } == ["b"])
        waiters.clock.advance(by: 100_000_000)
        waiters.begun.wait(until: { $0 == ["b", "a"] }) { _ in }
    }

    @Test func groupsAreFoundByName() throws {
        let group = try ThrottleGroup(name: "g")
        let groups = ThrottleGroups([group])
        #expect(try groups.group("g") === group)
        let error = blockError { () throws(BlockError) in try groups.group("h") }
        #expect(error?.message == "Throttle group 'h' does not exist")
        #expect(error?.kind == .notFound)
    }
}
