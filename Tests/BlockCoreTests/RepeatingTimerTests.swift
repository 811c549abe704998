import BlockCore
import Testing

/// The timer calls on until it is told to stop or let go.
@Suite struct RepeatingTimerTests {
    @Test(.timeLimit(.minutes(1)))
    func stopsWhenTheBodyHasEnough() {
        let calls = Monitor(0)
        let timer = RepeatingTimer(everyNanoseconds: 1000) {
            let count = calls.withLock { count in
                count += 1
                return count
            }
            calls.notifyAll()
            return count < 3
        }
        calls.wait(until: { $0 >= 3 }, then: { _ in })
        #expect(!calls.wait(forNanoseconds: 20_000_000, until: { $0 > 3 }))
        timer.stop()
    }

    @Test(.timeLimit(.minutes(1)))
    func aCallThatCannotWaitIsMadeByTheTimersThread() {
        let calls = Monitor(0)
        let timer = RepeatingTimer(everyNanoseconds: .max) {
            calls.withLock { count in
                count += 1
                return count < 3
            }
        }
        #expect(calls.withLock { $0 } == 0)
        for count in 1...3 {
            timer.callNow()
            #expect(calls.withLock { $0 } == count)
        }
        // The body has had enough.
        timer.callNow()
        #expect(calls.withLock { $0 } == 3)
    }

    @Test(.timeLimit(.minutes(1)))
    func aStoppedTimerMakesNoCall() {
        let calls = Monitor(0)
        let timer = RepeatingTimer(everyNanoseconds: .max) {
            calls.withLock { $0 += 1 }
            return true
        }
        timer.stop()
        timer.callNow()
        #expect(calls.withLock { $0 } == 0)
    }

    @Test func aLongPauseKeepsNobody() {
        let wasCalled = Monitor(false)
        var timer: RepeatingTimer? = RepeatingTimer(everyNanoseconds: .max) {
            wasCalled.withLock { $0 = true }
            return true
        }
        #expect(timer != nil)
        timer = nil
        #expect(!wasCalled.wait(forNanoseconds: 1_000_000, until: { $0 }))
    }
}
