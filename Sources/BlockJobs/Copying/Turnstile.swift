import BlockCore

/// Lets through in the order of their numbers what was made ready in any order. Thread-safe.
final class Turnstile: Sendable {
    private struct State {
        var next = 0
        var isShut = false
    }

    private let state = Monitor(State())

    /// Whether nobody is let through any more.
    var isShut: Bool { state.withLock { $0.isShut } }

    /// Waits for the turn of `number`.
    ///
    /// - Returns: `false` when the turnstile was shut: that turn never comes.
    func enter(_ number: Int) -> Bool {
        state.wait(until: { $0.isShut || $0.next == number }) { !$0.isShut }
    }

    /// Ends the turn that `enter` gave.
    func leave() {
        state.withLock { $0.next += 1 }
        state.notifyAll()
    }

    /// Ends the work of everybody: somebody failed.
    func shut() {
        state.withLock { $0.isShut = true }
        state.notifyAll()
    }
}
