import BlockCore

/// Lets threads pass one at a time in the order of their chunks' numbers. Thread-safe.
final class Turnstile: Sendable {
    private struct State {
        var next = 0
        var isShut = false
    }

    private let state = Monitor(State())

    /// Whether no thread passes any more.
    var isShut: Bool { state.withLock { $0.isShut } }

    /// Waits for the turn of `number`.
    ///
    /// - Returns: `false` when the turnstile was shut, so that the turn never comes.
    func enter(_ number: Int) -> Bool {
        state.wait(until: { $0.isShut || $0.next == number }) { !$0.isShut }
    }

    /// Ends the turn that ``enter(_:)`` gave.
    func leave() {
        state.withLock { $0.next += 1 }
        state.notifyAll()
    }

    /// Lets no thread pass any more, because one has failed.
    func shut() {
        state.withLock { $0.isShut = true }
        state.notifyAll()
    }
}
