import Synchronization

/// The idle compression states of a C library. Thread-safe.
///
/// Making a state costs more than compressing a small cluster, so states are kept until the process ends;
/// there are as many as threads ever worked at the same time.
final class CodecPool: Sendable {
    /// A C pointer on its way through the lock.
    private struct State: @unchecked Sendable {
        let pointer: OpaquePointer
    }

    private let idle = Mutex<[State]>([])

    /// Runs `body` with a state that no other thread uses meanwhile; `nil` when `make` has no memory for one.
    func withState<Result>(
        orMake make: () -> OpaquePointer?, _ body: (OpaquePointer) -> Result
    ) -> Result? {
        let pooled = idle.withLock { $0.popLast() }
        guard let pointer = pooled?.pointer ?? make() else { return nil }
        let state = State(pointer: pointer)
        defer { idle.withLock { $0.append(state) } }
        return body(pointer)
    }
}
