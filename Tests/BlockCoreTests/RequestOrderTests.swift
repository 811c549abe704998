import BlockTestSupport
import Synchronization
import Testing

@testable import BlockCore

/// Who goes first: requests in the order in which they came, and whoever takes the whole node.
@Suite struct RequestOrderTests {
    /// Threads that note what they got, in order.
    private final class Log: Sendable {
        private let names = Monitor<[String]>([])
        func note(_ name: String) {
            names.withLock { $0.append(name) }
            names.notifyAll()
        }
        func wait(for count: Int) -> [String] { names.wait(until: { $0.count >= count }) { $0 } }
        var now: [String] { names.withLock { $0 } }
    }

    /// A lock, and the number of requests that have had to wait for it.
    private struct WatchedLock: Sendable {
        let waits: Monitor<Int>
        let lock: RangeLock

        init() {
            let waits = Monitor(0)
            self.waits = waits
            lock = RangeLock {
                waits.withLock { $0 += 1 }
                waits.notifyAll()
            }
        }

        /// Waits until `count` requests have begun to wait.
        func wait(for count: Int) { waits.wait(until: { $0 >= count }) { _ in } }
    }

    /// Waits until somebody wants all of the lock, which counted readers hold.
    private static func waitUntilAllIsWanted(_ lock: RangeLock) { while lock.enter() { lock.leave() } }

    @Test(.timeLimit(.minutes(1))) func readersDoNotPassAWaitingWriter() throws {
        let watched = WatchedLock()
        let lock = watched.lock
        let log = Log()
        // Of a thread that lives on, since requests of one thread do not conflict.
        let hold = Monitor((isHeld: false, isOver: false))
        try WorkerThreads.run(4) { thread throws(BlockError) in
            switch thread {
            case 3:
                let first = lock.acquire(0..<100, exclusive: false)
                hold.withLock { $0.isHeld = true }
                hold.notifyAll()
                hold.wait(until: { $0.isOver }) { _ in }
                lock.release(first)
            case 0:
                hold.wait(until: { $0.isHeld }) { _ in }
                let ticket = lock.acquire(50..<60, exclusive: true)
                log.note("writer")
                lock.release(ticket)
            case 1:
                watched.wait(for: 1)
                let ticket = lock.acquire(55..<70, exclusive: false)
                log.note("reader")
                lock.release(ticket)
            default:
                watched.wait(for: 1)
                // Nothing in common with the writer: it shares with the first reader.
                let ticket = lock.acquire(0..<10, exclusive: false)
                log.note("elsewhere")
                lock.release(ticket)
                watched.wait(for: 2)
                #expect(log.now == ["elsewhere"])
                hold.withLock { $0.isOver = true }
                hold.notifyAll()
            }
        }
        #expect(log.now == ["elsewhere", "writer", "reader"])
    }

    @Test(.timeLimit(.minutes(1))) func aStreamOfReadersDoesNotStarveAWriter() throws {
        let progress = Monitor((reads: 0, isDone: false))
        let lock = RangeLock {
            // Under the lock, so that a reader about to wait does not miss it.
            progress.withLock { _ in }
            progress.notifyAll()
        }
        try WorkerThreads.run(5) { thread throws(BlockError) in
            guard thread > 0 else {
                progress.wait(until: { $0.reads >= 4 }) { _ in }
                let ticket = lock.acquire(0..<Int.max, exclusive: true)
                progress.withLock { $0.isDone = true }
                progress.notifyAll()
                lock.release(ticket)
                return
            }
            while !progress.withLock({ $0.isDone }) {
                let ticket = lock.acquire(0..<4096, exclusive: false)
                let number = progress.withLock { state in
                    state.reads += 1
                    return state.reads
                }
                progress.notifyAll()
                // Until the next reader is there, so that there is always one; or until none can come,
                // because the writer and the three others wait.
                progress.wait(until: { state in
                    state.reads > number || state.isDone || lock.waitingCount == 4
                }) { _ in }
                lock.release(ticket)
            }
        }
    }

    /// A writer waits for this thread, which needs one more range to come to its end.
    @Test(.timeLimit(.minutes(1))) func whoHoldsARangePassesThoseThatWait() throws {
        let watched = WatchedLock()
        let lock = watched.lock
        let log = Log()
        try WorkerThreads.run(2) { thread throws(BlockError) in
            if thread == 0 {
                let first = lock.acquire(0..<100, exclusive: false)
                log.note("first")
                watched.wait(for: 1)
                let second = lock.acquire(50..<200, exclusive: false)
                log.note("second")
                lock.release(second)
                lock.release(first)
            } else {
                _ = log.wait(for: 1)
                let ticket = lock.acquire(0..<Int.max, exclusive: true)
                log.note("writer")
                lock.release(ticket)
            }
        }
        #expect(log.now == ["first", "second", "writer"])
    }

    @Test(.timeLimit(.minutes(1))) func countedReadersKeepOutWhoWantsEverything() throws {
        let lock = RangeLock()
        let log = Log()
        #expect(lock.enter())
        try WorkerThreads.run(2) { thread throws(BlockError) in
            if thread == 0 {
                let ticket = lock.acquireAll()
                log.note("all")
                lock.releaseAll(ticket)
            } else {
                Self.waitUntilAllIsWanted(lock)
                #expect(!lock.enter())
                #expect(log.now.isEmpty)
                log.note("reader")
                lock.leave()
            }
        }
        #expect(log.now == ["reader", "all"])
        #expect(lock.enter())
        lock.leave()
    }

    /// Reads of a read-only node are seen by reopening and closing it.
    @Test(.timeLimit(.minutes(1)), arguments: [false, true])
    func reopeningAndClosingWaitForReaders(_ closes: Bool) throws {
        let driver = SlowDriver()
        let node = BlockNode(.format(driver), filename: "slow")
        let log = Log()
        try WorkerThreads.run(2) { thread throws(BlockError) in
            if thread == 0 {
                _ = try node.readBytes(at: 0, count: 512)
                log.note("read")
            } else {
                driver.isInside.wait(until: { $0 }) { _ in }
                try WorkerThreads.run(2) { inner throws(BlockError) in
                    if inner == 0 {
                        if closes { try node.close() } else { try node.reopen(readOnly: false) }
                        log.note("changed")
                    } else {
                        Self.waitUntilAllIsWanted(node.requests)
                        driver.mayGo.withLock { $0 = true }
                        driver.mayGo.notifyAll()
                    }
                }
            }
        }
        #expect(driver.disturbances.load(ordering: .relaxed) == 0)
        #expect(Set(log.now) == ["read", "changed"])
        guard closes else { return }
        #expect(throws: BlockError.self) { try node.readBytes(at: 0, count: 512) }
        #expect(driver.disturbances.load(ordering: .relaxed) == 0)
    }
}

/// A disk of zeroes whose first read takes as long as it is told, and that notices who comes meanwhile.
private final class SlowDriver: FormatDriver {
    static let name = "slow"
    let isInside = Monitor(false)
    let mayGo = Monitor(false)
    let disturbances = Atomic<Int>(0)
    private let isClosed = Atomic<Bool>(false)

    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> SlowDriver {
        SlowDriver()
    }

    var virtualSize: Int { 1 << 20 }
    var writeGranularity: Int { 512 }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        if isClosed.load(ordering: .relaxed) { disturbances.add(1, ordering: .relaxed) }
        isInside.withLock { $0 = true }
        isInside.notifyAll()
        mayGo.wait(until: { $0 }) { _ in }
        isInside.withLock { $0 = false }
        return Extent(.zero(hostOffset: nil), length: limit)
    }
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "read-only")
    }
    func flush() throws(BlockError) {}
    func close() throws(BlockError) {
        noteReaders()
        isClosed.store(true, ordering: .relaxed)
    }
    func willReopen(readOnly: Bool) throws(BlockError) { noteReaders() }
    private func noteReaders() {
        if isInside.withLock({ $0 }) { disturbances.add(1, ordering: .relaxed) }
    }
    func describe() throws(BlockError) -> FormatInfo { FormatInfo() }
}
