@testable import BlockCore
import BlockTestSupport
import Synchronization
import Testing

@Suite struct JobControlTests {
    @Test func speedIsKept() throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(bytesPerSecond: 1 << 20, clock: clock)
        for _ in 0..<64 { try control.checkpoint(moving: 65_536) }
        #expect((3_900_000_000...4_000_000_000).contains(clock.now()))
        control.setSpeed(0)
        let before = clock.now()
        for _ in 0..<64 { try control.checkpoint(moving: 65_536) }
        #expect(clock.now() == before)
    }

    /// Over any ten slices the speed is within 5%, and no slice has more than its share and one step.
    @Test(arguments: [1 << 20, 10_000_000, 333_333])
    func eachSliceGetsItsShare(_ speed: Int) throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(bytesPerSecond: speed, clock: clock)
        var moved = [Int](repeating: 0, count: 40)
        while clock.now() < 4_000_000_000 {
            let step = try #require(control.stepBytes)
            try control.checkpoint(moving: step)
            let slice = clock.now() / JobPace.sliceNanoseconds
            if slice < moved.count { moved[slice] += step }
        }
        for start in 0...30 {
            let sum = moved[start..<start + 10].reduce(0, +)
            #expect(abs(sum - speed) <= speed / 20, "\(moved)")
        }
        #expect(moved.allSatisfy { $0 <= speed / 10 + speed / 20 })
    }

    /// A job that was held up by its files catches up by one slice.
    @Test func aLateJobBurstsOneSlice() throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(bytesPerSecond: 1000, clock: clock)
        try control.checkpoint(moving: 50)
        clock.advance(by: 60_000_000_000)
        let start = clock.now()
        var moved = 0
        while clock.now() == start {
            try control.checkpoint(moving: 50)
            if clock.now() == start { moved += 50 }
        }
        #expect(moved == 100)
    }

    /// A wait for a low speed ends when the speed is raised, and the other way round.
    @Test(.timeLimit(.minutes(1)))
    func aChangeOfSpeedEndsTheWait() throws {
        let clock = ManualClock()
        let control = JobControl(bytesPerSecond: 1, clock: clock)
        try WorkerThreads.run(2) { thread throws(BlockError) in
            if thread == 0 {
                clock.waitForWaits(1)
                control.setSpeed(0)
            } else {
                try control.checkpoint(moving: 1000)
            }
        }
        #expect(clock.now() == 0)
        #expect(control.speed == 0)
    }

    /// A step that was cut for a higher speed waits at the new one before it begins.
    @Test func aLowerSpeedHoldsForAStepInHand() throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(clock: clock)
        try control.checkpoint(moving: 1 << 20)
        #expect(clock.now() == 0)
        control.setSpeed(1 << 20)
        try control.checkpoint(moving: 1 << 20)
        #expect(clock.now() == 950_000_000)
        try control.checkpoint(moving: 1 << 10)
        #expect(clock.now() == 1_000_000_000)
    }

    /// Setting the same speed again and again frees no step.
    @Test func settingTheSpeedIsNoWayAroundIt() throws {
        let clock = ManualClock(movesByItself: true)
        let control = JobControl(bytesPerSecond: 1000, clock: clock)
        for _ in 0..<40 {
            control.setSpeed(1000)
            try control.checkpoint(moving: 50)
        }
        #expect((1_900_000_000...2_000_000_000).contains(clock.now()))
        // What is owed from before is waited for at the new speed.
        control.setSpeed(500)
        let before = clock.now()
        try control.checkpoint(moving: 25)
        #expect(clock.now() - before == 100_000_000)
    }

    @Test func progressIsReported() {
        let seen = Mutex<[Double]>([])
        let control = JobControl(onProgress: { progress in seen.withLock { $0.append(progress.fraction) } })
        #expect(control.progress.fraction == 1)
        control.setTotal(400)
        control.advance(by: 100)
        control.advance(by: 500)
        #expect(seen.withLock { $0 } == [0, 0.25, 1])
        #expect(control.progress.done == 600)
    }

    @Test(.timeLimit(.minutes(1)))
    func pauseHoldsAndResumeLetsGo() throws {
        let clock = ManualClock()
        let control = JobControl(clock: clock)
        let steps = Monitor(0)
        control.pause()
        try WorkerThreads.run(2) { thread throws(BlockError) in
            if thread == 0 {
                clock.waitForWaits(1)
                guard steps.withLock({ $0 }) == 0 else {
                    throw BlockError(.corrupt, "the paused job went on")
                }
                control.resume()
            } else {
                try control.checkpoint(moving: 1)
                steps.withLock { $0 += 1 }
                steps.notifyAll()
            }
        }
        #expect(steps.withLock { $0 } == 1)
    }

    @Test(.timeLimit(.minutes(1)))
    func cancelEndsAPause() {
        let clock = ManualClock()
        let control = JobControl(clock: clock)
        control.pause()
        let error = blockError { () throws(BlockError) in
            try WorkerThreads.run(2) { thread throws(BlockError) in
                if thread == 0 {
                    clock.waitForWaits(1)
                    control.cancel()
                } else {
                    try control.checkpoint(moving: 1)
                }
            }
        }
        #expect(error?.kind == .cancelled)
        #expect(control.isCancelled)
    }

    @Test(.timeLimit(.minutes(1)), arguments: [false, true])
    func cancelEndsAWait(_ isSleep: Bool) {
        let clock = ManualClock()
        let control = JobControl(bytesPerSecond: 1, clock: clock)
        let error = blockError { () throws(BlockError) in
            try WorkerThreads.run(2) { thread throws(BlockError) in
                if thread == 0 {
                    clock.waitForWaits(1)
                    control.cancel()
                } else if isSleep {
                    try control.sleep(nanoseconds: 1 << 50)
                } else {
                    try control.checkpoint(moving: 1000)
                    try control.checkpoint(moving: 1000)
                }
            }
        }
        #expect(error?.kind == .cancelled)
        #expect(clock.now() == 0)
    }

    @Test func pausesAddUp() {
        let control = JobControl()
        control.begin()
        control.pause()
        control.pause()
        control.resume()
        #expect(control.status == .paused)
        control.becomeReady()
        #expect(control.status == .standby)
        control.resume()
        #expect(control.status == .ready)
        control.resume()
        control.pause()
        #expect(control.isPaused)
    }
}

@Suite struct WorkerThreadsTests {
    @Test(.timeLimit(.minutes(1)), arguments: [0, 1, 2, 9])
    func everyIndexRunsOnce(_ count: Int) throws {
        let seen = Mutex<[Int]>([])
        try WorkerThreads.run(count) { index throws(BlockError) in seen.withLock { $0.append(index) } }
        #expect(seen.withLock { $0.sorted() } == Array(0..<count))
    }

    @Test(.timeLimit(.minutes(1)))
    func theyRunAtTheSameTime() throws {
        let present = Monitor<Int>(0)
        try WorkerThreads.run(4) { _ throws(BlockError) in
            present.withLock { $0 += 1 }
            present.notifyAll()
            present.wait(until: { $0 == 4 }, then: { _ in })
        }
    }

    @Test func anErrorOfAnyThreadIsThrown() {
        for failing in 0..<3 {
            let finished = Atomic<Int>(0)
            let error = blockError { () throws(BlockError) in
                try WorkerThreads.run(3) { index throws(BlockError) in
                    if index == failing { throw BlockError(.noSpace, "full") }
                    finished.add(1, ordering: .relaxed)
                }
            }
            #expect(error?.kind == .noSpace)
            #expect(finished.load(ordering: .relaxed) == 2)
        }
    }
}
