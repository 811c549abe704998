import CHost

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Restores the terminal's settings when a signal ends the program while a line is edited.
///
/// Signals that were ignored when the program began stay ignored.
/// At most one exists at a time, made and ended on one thread.
struct TerminalGuard {
    /// The settings that the handler restores; written only while no handler is installed.
    nonisolated(unsafe) private static var settings = termios()
    private let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].filter { platter_is_ignored($0) == 0 }

    init(restoring settings: termios) {
        Self.settings = settings
        for number in signals {
            signal(number) { number in
                // Makes only calls that are safe in a handler. The signal then has its default effect.
                tcsetattr(STDIN_FILENO, TCSANOW, &TerminalGuard.settings)
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    func end() { for number in signals { signal(number, SIG_DFL) } }
}
