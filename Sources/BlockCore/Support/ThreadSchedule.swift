#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Decides which of a test's threads runs next, at every point where threads wait or meet. Only debug builds
/// ask it, and only on threads that have one. Monitors are told by identity, threads by number.
package protocol ThreadSchedule: AnyObject, Sendable {
    /// Another thread may run instead of `thread`.
    func point(_ thread: Int)
    /// Waits until no other thread has the monitor's lock, and takes it.
    func lock(_ monitor: ObjectIdentifier, _ thread: Int)
    func unlock(_ monitor: ObjectIdentifier, _ thread: Int)
    /// Gives the lock up, waits for a notification, and takes the lock again.
    ///
    /// - Returns: `false` when the wait has a limit that is over.
    func wait(_ monitor: ObjectIdentifier, hasLimit: Bool, _ thread: Int) -> Bool
    func notifyAll(_ monitor: ObjectIdentifier)
    /// Announces a thread that `thread` is about to start, and returns its number.
    func willStart(_ thread: Int) -> Int
    /// Takes back ``willStart(_:)``: there is no such thread.
    func failedToStart(_ thread: Int)
    /// Called first and last by a started thread.
    func begin(_ thread: Int)
    func end(_ thread: Int)
    /// Waits until `other` has ended.
    func join(_ other: Int, _ thread: Int)
}

/// The calling thread's place in a schedule.
package final class ScheduledThread: Sendable {
    let schedule: any ThreadSchedule
    let number: Int

    private init(_ schedule: any ThreadSchedule, _ number: Int) {
        self.schedule = schedule
        self.number = number
    }

    #if DEBUG
        private static let key: pthread_key_t = {
            var key = pthread_key_t()
            pthread_key_create(&key, nil)
            return key
        }()

        /// `nil` on a thread without a schedule, and in release builds.
        static var current: ScheduledThread? {
            guard let place = pthread_getspecific(key) else { return nil }
            return Unmanaged<ScheduledThread>.fromOpaque(place).takeUnretainedValue()
        }

        /// Runs `body` as a thread of the schedule, which knows it by `number`.
        package static func run(_ schedule: any ThreadSchedule, _ number: Int, _ body: () -> Void) {
            let place = Unmanaged.passRetained(ScheduledThread(schedule, number))
            pthread_setspecific(key, place.toOpaque())
            schedule.begin(number)
            body()
            pthread_setspecific(key, nil)
            place.release()
            schedule.end(number)
        }

        /// A point where another thread of the schedule may run.
        package static func point() {
            if let current { current.schedule.point(current.number) }
        }
    #else
        @inline(__always) static var current: ScheduledThread? { nil }
        /// Nothing in release builds.
        @inline(__always) package static func point() {}
    #endif
}
