#if DEBUG
    import BlockCore
    import Dispatch
    import Synchronization

    /// Lets one thread run at a time. At each point where threads meet, a seed chooses the next one, so that
    /// a failure of several threads can be repeated. Thread-safe.
    ///
    /// Threads meet at monitors and what is made of them, at the start and end of threads, and where a test
    /// calls ``point()``. A `Mutex` is no such point: none may be held where a thread comes to one.
    public final class SeededSchedule: ThreadSchedule {
        private enum Need {
            case ready
            case lock(ObjectIdentifier)
            case notice(ObjectIdentifier, hasLimit: Bool)
            case end(Int)
            case nothing
        }

        private struct Thread {
            var need = Need.ready
            var isOverdue = false
            let turn = DispatchSemaphore(value: 0)
        }

        private struct State {
            var random: SeededRandom
            var threads: [Thread] = [Thread()]
            var owners: [ObjectIdentifier: Int] = [:]
            var points = 0
            var verdict: String?
        }

        private let state: Mutex<State>
        private let done = DispatchSemaphore(value: 0)
        private let seed: UInt64
        /// One of so many points changes the thread.
        private let stay: Int
        private let maximumPoints: Int

        private init(seed: UInt64, maximumPoints: Int) {
            state = Mutex(State(random: SeededRandom(seed: seed)))
            self.seed = seed
            self.maximumPoints = maximumPoints
            stay = [2, 4, 16][Int(seed % 3)]
        }

        /// Runs `body`, and all threads that it starts, one at a time.
        ///
        /// - Parameter maximumPoints: after so many the threads are taken to go on without end.
        /// - Returns: what keeps them from ending, with the seed; `nil` when all have ended. Threads that are
        ///   stuck stay so.
        public static func run(
            seed: UInt64, maximumPoints: Int = 3_000_000, _ body: @escaping @Sendable () -> Void
        ) -> String? {
            let schedule = SeededSchedule(seed: seed, maximumPoints: maximumPoints)
            guard WorkerThreads.detach({ ScheduledThread.run(schedule, 0, body) }) else { return "no thread" }
            schedule.state.withLock { _ = $0.threads[0].turn.signal() }
            // A thread that holds a mutex at a point holds up the others where no schedule sees it.
            if schedule.done.wait(timeout: .now() + .seconds(100)) == .timedOut {
                return "seed \(seed): a thread waits where the schedule does not see it"
            }
            return schedule.state.withLock { $0.verdict }
        }

        /// A point where another thread may run; nothing on a thread without a schedule.
        @Sendable public static func point() { ScheduledThread.point() }

        // MARK: Points

        public func point(_ thread: Int) {
            let changes = state.withLock { $0.random.number(in: 0..<stay) == 0 }
            if changes { rest(thread, .ready) }
        }

        public func lock(_ monitor: ObjectIdentifier, _ thread: Int) {
            point(thread)
            let isTaken = state.withLock { state in
                let isFree = state.owners[monitor] == nil
                if isFree { state.owners[monitor] = thread }
                return !isFree
            }
            if isTaken { rest(thread, .lock(monitor)) }
        }

        public func unlock(_ monitor: ObjectIdentifier, _ thread: Int) {
            state.withLock { $0.owners[monitor] = nil }
        }

        public func wait(_ monitor: ObjectIdentifier, hasLimit: Bool, _ thread: Int) -> Bool {
            // Who tells of a change without the lock may do so here, where nobody hears it.
            point(thread)
            state.withLock { $0.owners[monitor] = nil }
            rest(thread, .notice(monitor, hasLimit: hasLimit))
            return state.withLock { state in
                defer { state.threads[thread].isOverdue = false }
                return !state.threads[thread].isOverdue
            }
        }

        public func notifyAll(_ monitor: ObjectIdentifier) {
            state.withLock { state in
                for index in state.threads.indices {
                    guard case .notice(monitor, _) = state.threads[index].need else { continue }
                    state.threads[index].need = .lock(monitor)
                }
            }
        }

        // MARK: Threads

        public func willStart(_ thread: Int) -> Int {
            state.withLock { state in
                state.threads.append(Thread())
                return state.threads.count - 1
            }
        }

        public func failedToStart(_ thread: Int) { state.withLock { $0.threads[thread].need = .nothing } }

        public func begin(_ thread: Int) { state.withLock { $0.threads[thread].turn }.wait() }

        public func end(_ thread: Int) {
            let next = state.withLock { state -> DispatchSemaphore? in
                state.threads[thread].need = .nothing
                return choose(&state).map { state.threads[$0].turn }
            }
            if let next { next.signal() } else { done.signal() }
        }

        public func join(_ other: Int, _ thread: Int) { rest(thread, .end(other)) }

        // MARK: Turns

        /// Gives the turn away until the thread has what it needs and is chosen.
        private func rest(_ thread: Int, _ need: Need) {
            let (own, next) = state.withLock { state in
                state.threads[thread].need = need
                return (state.threads[thread].turn, choose(&state).map { state.threads[$0].turn })
            }
            guard let next else {
                done.signal()
                return own.wait()
            }
            if next !== own {
                next.signal()
                own.wait()
            }
        }

        /// The next thread, which gets what it needs; `nil` when there is none.
        private func choose(_ state: inout State) -> Int? {
            state.points += 1
            if state.points > maximumPoints {
                state.verdict = "seed \(seed): no end after \(maximumPoints) points" + list(state)
                return nil
            }
            var ready = state.threads.indices.filter { canRun(state.threads[$0].need, state) }
            if ready.isEmpty {
                // Time passes only while nobody can do anything.
                ready = state.threads.indices.filter { waitsWithLimit(state.threads[$0].need, state) }
                for index in ready { state.threads[index].isOverdue = true }
            }
            guard !ready.isEmpty else {
                let isOver = state.threads.allSatisfy { if case .nothing = $0.need { true } else { false } }
                if !isOver { state.verdict = "seed \(seed): all threads wait" + list(state) }
                return nil
            }
            let index = ready[state.random.number(in: 0..<ready.count)]
            for other in ready where other != index { state.threads[other].isOverdue = false }
            take(index, &state)
            return index
        }

        private func take(_ index: Int, _ state: inout State) {
            switch state.threads[index].need {
            case .lock(let monitor), .notice(let monitor, _): state.owners[monitor] = index
            default: break
            }
            state.threads[index].need = .ready
        }

        private func canRun(_ need: Need, _ state: State) -> Bool {
            switch need {
            case .ready: return true
            case .lock(let monitor): return state.owners[monitor] == nil
            case .end(let other):
                if case .nothing = state.threads[other].need { return true }
                return false
            case .notice, .nothing: return false
            }
        }

        private func waitsWithLimit(_ need: Need, _ state: State) -> Bool {
            if case .notice(let monitor, true) = need { return state.owners[monitor] == nil }
            return false
        }

        private func list(_ state: State) -> String {
            var names: [ObjectIdentifier: Int] = [:]
            let lines = state.threads.indices.compactMap { index -> String? in
                let monitor: ObjectIdentifier
                switch state.threads[index].need {
                case .ready: return "\n  thread \(index) can run"
                case .end(let other): return "\n  thread \(index) waits for the end of thread \(other)"
                case .nothing: return nil
                case .lock(let of), .notice(let of, _): monitor = of
                }
                let name = names[monitor] ?? names.count
                names[monitor] = name
                let owner = state.owners[monitor].map { ", which thread \($0) has" } ?? ", to be told"
                return "\n  thread \(index) waits on monitor \(name)\(owner)"
            }
            return lines.joined()
        }
    }
#endif
