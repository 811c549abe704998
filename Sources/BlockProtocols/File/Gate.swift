import BlockCore

/// Lets one thread through at a time. Unlike a mutex's closure, it can be held around a use of spans.
final class Gate: Sendable {
    private let isTaken = Monitor(false)

    /// Waits until the gate is free and takes it.
    func enter() { isTaken.wait(until: { !$0 }) { $0 = true } }

    /// Frees the gate.
    func leave() {
        isTaken.withLock { $0 = false }
        isTaken.notifyAll()
    }
}
