#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A value guarded by a lock, with waiting for changes of the value.
///
/// Thread-safe. Not recursive: `body` must not enter the same monitor again. The state is `Sendable`: a
/// value, or an object that is safe to pass between threads; no part of it may be used outside.
public final class Monitor<State: Sendable>: @unchecked Sendable {
    private var state: State
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    /// A monitor whose guarded value begins as `state`.
    public init(_ state: State) {
        self.state = state
        mutex.initialize(to: pthread_mutex_t())
        changed.initialize(to: pthread_cond_t())
        pthread_mutex_init(mutex, nil)
        #if canImport(Darwin)
            pthread_cond_init(changed, nil)
        #else
            var attributes = pthread_condattr_t()
            pthread_condattr_init(&attributes)
            // Waits with a time limit must not depend on changes of the wall clock.
            pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
            pthread_cond_init(changed, &attributes)
            pthread_condattr_destroy(&attributes)
        #endif
    }

    deinit {
        pthread_cond_destroy(changed)
        pthread_mutex_destroy(mutex)
        changed.deallocate()
        mutex.deallocate()
    }

    /// Runs `body` with the lock held.
    ///
    /// - Throws: errors of `body`.
    public func withLock<Result, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        lock()
        defer { unlock() }
        return try body(&state)
    }

    /// Waits until `ready` is `true`, then runs `body` without releasing the lock in between.
    ///
    /// - Throws: errors of `body`.
    public func wait<Result, Failure: Error>(
        until ready: (inout State) -> Bool, then body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        lock()
        defer { unlock() }
        while !ready(&state) {
            if scheduledWait(hasLimit: false) == nil { pthread_cond_wait(changed, mutex) }
        }
        return try body(&state)
    }

    /// Waits until `ready` is `true`, at most `limit` nanoseconds.
    ///
    /// - Returns: whether `ready` is `true`.
    public func wait(forNanoseconds limit: Int, until ready: (inout State) -> Bool) -> Bool {
        lock()
        defer { unlock() }
        let end = MonotonicClock.nanoseconds().addingReportingOverflow(limit)
        let deadline = end.overflow ? Int.max : end.partialValue
        while !ready(&state) {
            let left = deadline - MonotonicClock.nanoseconds()
            if left <= 0 { return false }
            switch scheduledWait(hasLimit: true) {
            case nil: waitOnce(left)
            case true?: continue
            case false?: return ready(&state)
            }
        }
        return true
    }

    /// Waits for a change, at most `left` nanoseconds.
    private func waitOnce(_ left: Int) {
        #if canImport(Darwin)
            var time = timespec(tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000)
            pthread_cond_timedwait_relative_np(changed, mutex, &time)
        #else
            // The system's own clock: MonotonicClock counts from another moment.
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            let (sum, overflow) = (time.tv_sec * 1_000_000_000 + time.tv_nsec).addingReportingOverflow(left)
            let end = overflow ? Int.max : sum
            time = timespec(tv_sec: end / 1_000_000_000, tv_nsec: end % 1_000_000_000)
            pthread_cond_timedwait(changed, mutex, &time)
        #endif
    }

    /// Wakes all waiting threads to check the state again.
    public func notifyAll() {
        ScheduledThread.current?.schedule.notifyAll(ObjectIdentifier(self))
        pthread_cond_broadcast(changed)
    }

    // MARK: The lock

    @inline(__always) private func lock() {
        if let thread = ScheduledThread.current {
            thread.schedule.lock(ObjectIdentifier(self), thread.number)
        }
        pthread_mutex_lock(mutex)
    }

    @inline(__always) private func unlock() {
        pthread_mutex_unlock(mutex)
        if let thread = ScheduledThread.current {
            thread.schedule.unlock(ObjectIdentifier(self), thread.number)
        }
    }

    /// Waits under a test's schedule.
    ///
    /// - Returns: `nil` without one; `false` when the limit is over.
    @inline(__always) private func scheduledWait(hasLimit: Bool) -> Bool? {
        guard let thread = ScheduledThread.current else { return nil }
        pthread_mutex_unlock(mutex)
        defer { pthread_mutex_lock(mutex) }
        return thread.schedule.wait(ObjectIdentifier(self), hasLimit: hasLimit, thread.number)
    }
}
