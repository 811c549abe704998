#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Operating system threads for work that blocks.
public enum WorkerThreads {
    /// The number of processors of the system, at least 1.
    public static let processorCount = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))

    /// Runs `body(0)` to `body(count - 1)` in parallel, one of them on the calling thread, and waits for all.
    ///
    /// - Throws: the first error of any call. It does not interrupt the other calls: use a shared flag for
    ///   that.
    public static func run(
        _ count: Int, _ body: @escaping @Sendable (Int) throws(BlockError) -> Void
    ) throws(BlockError) {
        let failure = Monitor<BlockError?>(nil)
        let guarded: @Sendable (Int) -> Void = { index in
            do throws(BlockError) { try body(index) } catch {
                failure.withLock { first in first = first ?? error }
            }
        }
        var threads: [Started] = []
        var inline: [Int] = []
        for index in stride(from: 1, to: count, by: 1) {
            if let thread = start({ guarded(index) }) { threads.append(thread) } else { inline.append(index) }
        }
        if count > 0 { guarded(0) }
        inline.forEach(guarded)
        threads.forEach { $0.join() }
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// Runs `body` on a detached thread.
    ///
    /// `false` when the system cannot start one.
    @discardableResult
    public static func detach(_ body: @escaping @Sendable () -> Void) -> Bool {
        guard let thread = start(body) else { return false }
        pthread_detach(thread.thread)
        return true
    }

    /// A number for the calling thread, unlike that of any other that runs.
    public static var current: UInt {
        #if canImport(Darwin)
            UInt(bitPattern: pthread_self())
        #else
            UInt(pthread_self())
        #endif
    }

    /// Blocks the calling thread for that many nanoseconds.
    @Sendable public static func sleep(nanoseconds: Int) {
        var left = timespec(tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
        var rest = timespec()
        while nanosleep(&left, &rest) != 0 && errno == EINTR { left = rest }
    }

    /// A thread, with its number in the schedule of a test.
    private struct Started {
        var thread: pthread_t
        var number: Int?

        func join() {
            if let number, let current = ScheduledThread.current {
                current.schedule.join(number, current.number)
            }
            pthread_join(thread, nil)
        }
    }

    /// Starts one thread, under the schedule of the calling one; `nil` when the system cannot.
    private static func start(_ body: @escaping @Sendable () -> Void) -> Started? {
        #if DEBUG
            guard let current = ScheduledThread.current else {
                return create(body).map { Started(thread: $0) }
            }
            let schedule = current.schedule
            let number = schedule.willStart(current.number)
            let thread = create { ScheduledThread.run(schedule, number, body) }
            if thread == nil { schedule.failedToStart(number) }
            return thread.map { Started(thread: $0, number: number) }
        #else
            return create(body).map { Started(thread: $0) }
        #endif
    }

    /// Starts one thread; `nil` when the system cannot.
    private static func create(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
        let task = Unmanaged.passRetained(ThreadTask(body))
        #if canImport(Darwin)
            var thread: pthread_t?
            let code = pthread_create(&thread, nil, { threadMain($0) }, task.toOpaque())
            let started = thread
        #else
            var thread = pthread_t()
            let code = pthread_create(&thread, nil, { threadMain($0) }, task.toOpaque())
            let started: pthread_t? = thread
        #endif
        guard code == 0 else {
            task.release()
            return nil
        }
        return started
    }
}

/// The work of a started thread, passed through C as an opaque pointer.
private final class ThreadTask: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

/// The C entry point: takes over the retained task and runs it.
private func threadMain(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { Unmanaged<ThreadTask>.fromOpaque(context).takeRetainedValue().body() }
    return nil
}
