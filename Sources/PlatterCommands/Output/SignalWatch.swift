import BlockCore
import CHost
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Receives the signals that concern running jobs, on a thread of its own, so that no code runs in a handler.
///
/// While it watches, the signals are blocked in the thread that made it and in threads started from there.
/// All watches of the process share the receiving thread, and each of them gets every signal. Thread-safe.
final class SignalWatch: Sendable {
    private struct Handlers: Sendable {
        var onInterrupt: @Sendable () -> Void
        var onStatusRequest: @Sendable () -> Void
        var interruptedAt: ContinuousClock.Instant?
    }

    private struct Watches: Sendable {
        var all: [Int: Handlers] = [:]
        var lastNumber = 0
        /// Whether the receiving thread was started; it never ends.
        var hasThread = false
    }

    /// The effect of a signal.
    private enum Outcome {
        case calls([@Sendable () -> Void])
        case exit
        /// The signal's default effect, since nothing watches.
        case systemDefault
    }

    private static let watches = Mutex(Watches())
    /// The signal that interrupted this process.
    private static let received = Atomic<Int32>(SIGINT)
    private let number: Int

    /// The exit status after an interrupt, as shells report the signal: 130 for Ctrl-C.
    static var interruptedStatus: Int32 { 128 + received.load(ordering: .relaxed) }

    /// Ends the process at once, as after an interrupt.
    static func endProcess() -> Never { _exit(interruptedStatus) }

    /// Signals that were ignored when the program began stay so: nohup, and background jobs of scripts.
    private static let interrupts = [SIGINT, SIGTERM, SIGHUP].filter { platter_is_ignored($0) == 0 }
    private static let statusIsIgnored = platter_is_ignored(SIGUSR1) != 0

    /// Interrupts within this time count as one: `timeout` sends its signal to the process and to the
    /// process's group.
    static let quietTime = Duration.milliseconds(200)

    /// Starts watching. The first interrupt calls `onInterrupt`, the second ends the process.
    init(onInterrupt: @escaping @Sendable () -> Void, onStatusRequest: @escaping @Sendable () -> Void) {
        var set = Self.set
        pthread_sigmask(SIG_BLOCK, &set, nil)
        let handlers = Handlers(onInterrupt: onInterrupt, onStatusRequest: onStatusRequest)
        let (number, isFirst) = Self.watches.withLock { watches in
            defer { watches.hasThread = true }
            watches.lastNumber += 1
            watches.all[watches.lastNumber] = handlers
            return (watches.lastNumber, !watches.hasThread)
        }
        self.number = number
        if isFirst { WorkerThreads.detach { Self.watch() } }
    }

    /// Ends watching. When nothing else watches, an interrupt ends the program again.
    func stop() {
        let isLast = Self.watches.withLock { watches in
            watches.all.removeValue(forKey: number) != nil && watches.all.isEmpty
        }
        guard isLast else { return }
        var set = Self.interruptSet
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    private static func watch() {
        var set = set
        while true {
            var signal: Int32 = 0
            if sigwait(&set, &signal) == 0 { deliver(signal) }
        }
    }

    /// Delivers a signal to every watch.
    static func deliver(_ signal: Int32) {
        switch watches.withLock({ outcome(signal, at: .now, &$0) }) {
        case .calls(let calls): calls.forEach { $0() }
        case .exit:
            UnfinishedFiles.removeAll()
            _exit(128 + signal)
        case .systemDefault: leaveToSystem(signal)
        }
    }

    private static func outcome(
        _ signal: Int32, at now: ContinuousClock.Instant, _ watches: inout Watches
    ) -> Outcome {
        if signal == SIGUSR1 { return .calls(watches.all.values.map(\.onStatusRequest)) }
        guard !watches.all.isEmpty else { return .systemDefault }
        let waiting = watches.all.filter { $0.value.interruptedAt == nil }
        if waiting.isEmpty {
            let last = watches.all.values.compactMap(\.interruptedAt).max() ?? now
            return now - last < quietTime ? .calls([]) : .exit
        }
        for number in waiting.keys { watches.all[number]?.interruptedAt = now }
        received.store(signal, ordering: .relaxed)
        return .calls(waiting.values.map(\.onInterrupt))
    }

    /// Gives a signal that came between two watches its default effect.
    private static func leaveToSystem(_ signal: Int32) {
        var set = interruptSet
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
        raise(signal)
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    private static var interruptSet: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in interrupts { sigaddset(&set, signal) }
        return set
    }

    private static var set: sigset_t {
        var set = interruptSet
        if !statusIsIgnored { sigaddset(&set, SIGUSR1) }
        return set
    }
}
