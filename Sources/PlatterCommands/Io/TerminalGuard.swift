import CHost

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Gives the terminal back its settings when a signal ends the program while a line is edited.
///
/// Signals that were ignored when the program began stay ignored.
/// There is one at a time, made and ended on one thread.
struct TerminalGuard {
    /// What the handler restores: set before it is installed, and not changed while it is.
    nonisolated(unsafe) private static var settings = termios()
    private let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].filter { platter_is_ignored($0) == 0 }

    init(restoring settings: termios) {
        Self.settings = settings
        for number in signals {
            signal(number) { number in
                // Only calls that are safe in a handler; then the signal does what it would have done.
                tcsetattr(STDIN_FILENO, TCSANOW, &TerminalGuard.settings)
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    func end() { for number in signals { signal(number, SIG_DFL) } }
}
