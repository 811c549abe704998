import BlockCore
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Takes the signals that concern a running job on a thread of its own, so that no code runs in a handler.
///
/// While it watches, the signals are blocked in the thread that made it and in those started from there.
final class SignalWatch: Sendable {
    private let isStopped = Atomic<Bool>(false)
    /// The signal that interrupted this process.
    private static let received = Atomic<Int32>(SIGINT)

    /// The exit status after an interrupt, as a shell tells of the signal: 130 for Ctrl-C.
    static var interruptedStatus: Int32 { 128 + received.load(ordering: .relaxed) }

    private static let interrupts = [SIGINT, SIGTERM, SIGHUP]

    /// Starts watching. The first interrupt calls `onInterrupt`, the second ends the process.
    init(onInterrupt: @escaping @Sendable () -> Void, onStatusRequest: @escaping @Sendable () -> Void) {
        var set = Self.set
        pthread_sigmask(SIG_BLOCK, &set, nil)
        WorkerThreads.detach { [self] in
            var interrupted = false
            var set = Self.set
            while true {
                var signal: Int32 = 0
                guard sigwait(&set, &signal) == 0 else { continue }
                if isStopped.load(ordering: .acquiring) { return }
                if signal == SIGUSR1 {
                    onStatusRequest()
                } else if interrupted {
                    _exit(128 + signal)
                } else {
                    interrupted = true
                    Self.received.store(signal, ordering: .relaxed)
                    onInterrupt()
                }
            }
        }
    }

    /// Ends watching: an interrupt ends the program again.
    func stop() {
        guard !isStopped.exchange(true, ordering: .acquiringAndReleasing) else { return }
        // Wakes the watching thread, which sees that it is over.
        kill(getpid(), SIGUSR1)
        var set = Self.interruptSet
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    private static var interruptSet: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in interrupts { sigaddset(&set, signal) }
        return set
    }

    private static var set: sigset_t {
        var set = interruptSet
        sigaddset(&set, SIGUSR1)
        return set
    }
}
