#if DEBUG
    import BlockTestSupport
    import Synchronization
    import Testing

    @testable import BlockCore

    /// The schedule finds what it is there for: in code that is broken on purpose, within so many seeds.
    @Suite(.timeLimit(.minutes(2))) struct SeededScheduleTests {
        private static let seeds = UInt64(0)..<200

        private func firstStuck(_ body: @escaping @Sendable () -> Void) -> String? {
            for seed in Self.seeds {
                if let stuck = SeededSchedule.run(seed: seed, body) { return stuck }
            }
            return nil
        }

        @Test func findsLocksInTwoOrders() throws {
            let stuck = firstStuck {
                let (one, two) = (Monitor(0), Monitor(0))
                let other = TestThread { one.withLock { _ in two.withLock { $0 += 1 } } }
                two.withLock { _ in one.withLock { $0 += 1 } }
                other.wait()
            }
            #expect(try #require(stuck).contains("all threads wait"))
        }

        /// The change is made and told without the lock: it may come between looking and waiting.
        @Test func findsANoticeThatNobodyHears() throws {
            let stuck = firstStuck {
                let (monitor, flag) = (Monitor(()), Flag())
                let other = TestThread {
                    flag.value.store(true, ordering: .sequentiallyConsistent)
                    monitor.notifyAll()
                }
                monitor.wait(until: { _ in flag.value.load(ordering: .sequentiallyConsistent) }) { _ in }
                other.wait()
            }
            #expect(try #require(stuck).contains("all threads wait"))
        }

        /// The same with the lock, as ``RangeLock/leave()`` does it.
        @Test func aNoticeUnderTheLockIsHeard() {
            let stuck = firstStuck {
                let (monitor, flag) = (Monitor(()), Flag())
                let other = TestThread {
                    flag.value.store(true, ordering: .sequentiallyConsistent)
                    monitor.withLock { _ in }
                    monitor.notifyAll()
                }
                monitor.wait(until: { _ in flag.value.load(ordering: .sequentiallyConsistent) }) { _ in }
                other.wait()
            }
            #expect(stuck == nil)
        }

        @Test func findsAnUpdateInTwoSteps() throws {
            let lost = Self.seeds.contains { seed in
                let sum = Monitor(0)
                let stuck = SeededSchedule.run(seed: seed) {
                    try? WorkerThreads.run(3) { _ in
                        let old = sum.withLock { $0 }
                        sum.withLock { $0 = old + 1 }
                    }
                }
                return stuck == nil && sum.withLock { $0 } < 3
            }
            #expect(lost)
        }

        @Test func aSeedRepeatsItself() {
            let orders = [5, 5, 6, 7, 8].map { (seed: UInt64) in
                let order = Monitor<[Int]>([])
                let stuck = SeededSchedule.run(seed: seed) {
                    try? WorkerThreads.run(4) { thread in
                        for _ in 0..<8 { order.withLock { $0.append(thread) } }
                    }
                }
                #expect(stuck == nil)
                return order.withLock { $0 }
            }
            #expect(orders[0] == orders[1])
            #expect(Set(orders).count > 1)
        }

        @Test func timeEndsAWaitThatNothingElseEnds() {
            let outcome = Monitor<Bool?>(nil)
            let stuck = SeededSchedule.run(seed: 1) {
                let isReady = Monitor(()).wait(forNanoseconds: .max) { _ in false }
                outcome.withLock { $0 = isReady }
            }
            #expect(stuck == nil && outcome.withLock { $0 } == false)
        }

        // MARK: Locks of the node

        /// Writers are alone, readers see no writer, and whoever has all ranges is alone.
        @Test(arguments: 0..<TestEffort.scaled(40))
        func rangesExcludeEachOther(_ seed: Int) {
            let faults = Monitor<[String]>([])
            let stuck = SeededSchedule.run(seed: UInt64(seed)) {
                let lock = RangeLock()
                let inside = Inside(faults)
                try? WorkerThreads.run(4) { thread in
                    var random = SeededRandom(seed: UInt64(seed * 8 + thread))
                    for _ in 0..<12 { inside.use(lock, &random) }
                }
            }
            #expect(stuck == nil)
            #expect(faults.withLock { $0 } == [])
        }
    }

    private final class Flag: Sendable {
        let value = Atomic<Bool>(false)
    }

    /// Counts who is in each of four places.
    private final class Inside: Sendable {
        private let counts = Monitor((readers: [0, 0, 0, 0], writers: [0, 0, 0, 0]))
        private let faults: Monitor<[String]>

        init(_ faults: Monitor<[String]>) { self.faults = faults }

        func use(_ lock: RangeLock, _ random: inout SeededRandom) {
            let lower = random.number(in: 0..<4)
            let range = lower..<lower + 1 + random.number(in: 0..<4 - lower)
            switch random.number(in: 0..<5) {
            case 0:
                let ticket = lock.acquireAll()
                // Again, as a job does that holds the node.
                let nested = lock.acquire(range, exclusive: true)
                stay(0..<4, isWriter: true)
                lock.release(nested)
                lock.releaseAll(ticket)
            case 1, 2:
                let ticket = lock.acquire(range, exclusive: true)
                stay(range, isWriter: true)
                lock.release(ticket)
            case 3:
                let ticket = lock.acquire(range, exclusive: false)
                stay(range, isWriter: false)
                lock.release(ticket)
            default:
                // A read of a read-only disk excludes only what has all ranges.
                guard lock.enter() else { return }
                SeededSchedule.point()
                lock.leave()
            }
        }

        private func stay(_ range: Range<Int>, isWriter: Bool) {
            let isAlone = counts.withLock { counts in
                for place in range {
                    if isWriter { counts.writers[place] += 1 } else { counts.readers[place] += 1 }
                }
                return range.allSatisfy { place in
                    counts.writers[place] == (isWriter ? 1 : 0) && (!isWriter || counts.readers[place] == 0)
                }
            }
            if !isAlone { faults.withLock { $0.append("\(range) is not exclusive") } }
            SeededSchedule.point()
            counts.withLock { counts in
                for place in range {
                    if isWriter { counts.writers[place] -= 1 } else { counts.readers[place] -= 1 }
                }
            }
        }
    }
#endif
