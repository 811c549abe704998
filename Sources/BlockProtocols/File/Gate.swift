import BlockCore

/// A lock that one thread at a time holds. It needs no closure, unlike `Mutex`, so that code with spans can
/// hold it.
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
