import BlockCore
import Synchronization

/// Shows a job's progress, and cancels the job when the user interrupts it.
///
/// On a terminal, `-p` is one line on standard error that is rewritten: percentage, rate, time left.
/// Elsewhere, and under the names of QEMU's programs, it is qemu-img's `    (12.34/100%)` and a carriage
/// return on standard output, at least one percent apart.
/// SIGUSR1 prints one line on standard error, which begins as qemu-img's. SIGINT, SIGTERM and SIGHUP cancel
/// the job at its next step; the second one ends the program at once. Thread-safe.
final class ProgressReporter: Sendable {
    /// The control to run the job with.
    let control: JobControl
    private let display: ProgressDisplay
    private let signals: SignalWatch

    /// - Parameters:
    ///     - isShown: whether progress is shown: `-p` without `-q`.
    ///   - bytesPerSecond: the job's speed limit; 0 for none.
    ///   - endsAtInterrupt: whether the first interrupt already ends the program: for a job without steps.
    init(
        _ context: CommandContext, isShown: Bool, bytesPerSecond: Int = 0, endsAtInterrupt: Bool = false
    ) {
        let display = ProgressDisplay(context, isShown: isShown)
        let control = JobControl(bytesPerSecond: bytesPerSecond, onProgress: { display.update($0) })
        self.display = display
        self.control = control
        signals = SignalWatch(
            onInterrupt: { if endsAtInterrupt { SignalWatch.endProcess() } else { control.cancel() } },
            onStatusRequest: { display.printOnce(control.progress) })
        display.begin()
    }

    /// Shows the end and stops watching signals. Call it after success and after failure; a second call does
    /// nothing.
    ///
    /// - Parameters:
    ///     - succeeded: whether the job has succeeded, so that 100% is shown.
    ///     - result: text for standard output, printed where qemu-img prints it.
    ///   - isAnswer: whether the command fails when `result` cannot be written.
    func finish(succeeded: Bool, result: String = "", isAnswer: Bool = false) {
        signals.stop()
        display.end(succeeded: succeeded, result: result, isAnswer: isAnswer)
    }

    /// Runs a job on the calling thread, and shows its end.
    func run(_ job: any BlockJob) throws {
        try reporting { control in try JobEngine().run(job, control) }
    }

    /// Runs `body`, and calls ``finish(succeeded:result:isAnswer:)`` whether it succeeds or fails.
    func reporting<Result>(_ body: (JobControl) throws -> Result) throws -> Result {
        do {
            let result = try body(control)
            finish(succeeded: true)
            return result
        } catch {
            finish(succeeded: false)
            throw error
        }
    }
}

/// Prints the progress, and decides when.
private final class ProgressDisplay: Sendable {
    private struct State {
        var shownPercent = 0.0
        var shownAt = 0
        var ended = false
    }

    private let terminal: Terminal
    private let isShown: Bool
    /// Whether progress is Platter's line on standard error instead of qemu-img's on standard output.
    private let isLine: Bool
    private let isQemu: Bool
    private let began = MonotonicClock.nanoseconds()
    private let state = Mutex(State())

    /// The shortest time between two changes of the line on a terminal.
    private static let intervalNanoseconds = 100_000_000
    private static let lineWidth = 60

    init(_ context: CommandContext, isShown: Bool) {
        terminal = context.terminal
        self.isShown = isShown
        isQemu = context.isCalledAsQemu
        isLine = terminal.errorIsTerminal && !isQemu
    }

    func begin() {
        if isShown && !isLine { classic(0) }
    }

    func update(_ progress: JobControl.Progress) {
        guard isShown, progress.total > 0 else { return }
        let percent = progress.fraction * 100
        let now = MonotonicClock.nanoseconds()
        let due = state.withLock { state in
            guard !state.ended else { return false }
            let due =
                isLine
                ? now - state.shownAt >= Self.intervalNanoseconds
                : percent >= state.shownPercent + 1
            if due { (state.shownPercent, state.shownAt) = (percent, now) }
            return due
        }
        if due { show(progress, percent) }
    }

    /// Prints the progress once, for SIGUSR1.
    func printOnce(_ progress: JobControl.Progress) {
        let start = isShown && isLine ? "\r" : ""
        let more = isQemu ? "" : "  " + pace(progress)
        terminal.writeError(start + Self.classicText(progress.fraction * 100) + more + "\n")
    }

    func end(succeeded: Bool, result: String, isAnswer: Bool) {
        let (wasEnded, shownPercent) = state.withLock { state in
            defer { state.ended = true }
            return (state.ended, state.shownPercent)
        }
        let isShown = self.isShown && !wasEnded
        if isShown && isLine {
            terminal.writeError(succeeded ? "\r" + finalLine() + "\n" : "\n")
        } else if isShown && succeeded && shownPercent < 100 {
            classic(100)
        }
        if isAnswer { terminal.print(result) } else { terminal.remark(result) }
        guard isShown && !isLine else { return }
        terminal.remark("\n")
        terminal.flush()
    }

    private func show(_ progress: JobControl.Progress, _ percent: Double) {
        if isLine { terminal.writeError("\r" + line(progress)) } else { classic(percent) }
    }

    private func classic(_ percent: Double) {
        terminal.steer(Self.classicText(percent) + "\r")
        terminal.flush()
    }

    private static func classicText(_ percent: Double) -> String {
        "    (\(HumanSize.percent(percent))/100%)"
    }

    private func line(_ progress: JobControl.Progress) -> String {
        let percent = HumanSize.percent(progress.fraction * 100).padded(left: 6)
        return "\(percent)%  \(pace(progress))".padded(right: Self.lineWidth)
    }

    /// The rate so far, and the time left at that rate.
    private func pace(_ progress: JobControl.Progress) -> String {
        let seconds = max(1e-3, Double(MonotonicClock.nanoseconds() - began) / 1e9)
        let rate = Double(progress.done) / seconds
        let left = rate > 0 ? Double(progress.total - progress.done) / rate : 0
        return "\(HumanSize.text(Int(min(rate, 1e18))))/s  \(Self.duration(left)) left"
    }

    private func finalLine() -> String {
        let seconds = Double(MonotonicClock.nanoseconds() - began) / 1e9
        return "100.00%  in \(Self.duration(seconds))".padded(right: Self.lineWidth)
    }

    private static func duration(_ seconds: Double) -> String {
        let whole = Int(min(max(seconds, 0), 1e9).rounded())
        let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60)
        let tail = "\(minutes < 10 && hours > 0 ? "0" : "")\(minutes):\(rest < 10 ? "0" : "")\(rest)"
        return hours > 0 ? "\(hours):\(tail)" : tail
    }
}
