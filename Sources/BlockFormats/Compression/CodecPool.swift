import Synchronization

/// Compression states of a C library that no thread uses at the moment. Thread-safe.
///
/// Making a state costs more than compressing a small cluster; they are kept to the end of the process, as
/// many as threads ever worked at once.
final class CodecPool: Sendable {
    /// A C pointer on its way through the lock.
    private struct State: @unchecked Sendable {
        let pointer: OpaquePointer
    }

    private let idle = Mutex<[State]>([])

    /// Runs `body` with a state that is nobody else's meanwhile; `nil` when `make` has no memory for one.
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
