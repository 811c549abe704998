import BlockCore
import CRing
import Synchronization
import SystemPackage

/// Kernel queues for a file's requests, one for each request under way.
///
/// Thread-safe: each request has a queue of its own while it runs. Idle queues are kept for later requests.
final class RequestQueue: Sendable {
    private struct Ring: @unchecked Sendable {
        let pointer: OpaquePointer
    }

    private let kind: Int32
    private let idle: Mutex<[Ring]>
    /// Whether a queue failed; no queue is used after that.
    private let failed = Atomic<Bool>(false)

    /// - Throws: `unsupported` if the kernel or this build has no such queue.
    init(_ engine: RequestEngine) throws(BlockError) {
        kind = Int32(engine == .native ? platter_ring_native : platter_ring_uring)
        do throws(Errno) { idle = Mutex([try Self.open(kind)]) } catch {
            let reason =
                error == .notSupported ? "this build has no support for it" : "\(error)"
            throw BlockError(
                .unsupported, "aio=\(engine.rawValue) cannot be used here: \(reason)", errno: error.rawValue,
                hint: "Use aio=threads.")
        }
    }

    deinit { idle.withLock { $0.forEach { platter_ring_close($0.pointer) } } }

    private static func open(_ kind: Int32) throws(Errno) -> Ring {
        var code: Int32 = 0
        guard let pointer = platter_ring_open(kind, &code) else { throw Errno(rawValue: code) }
        return Ring(pointer: pointer)
    }

    /// Runs `body` on a queue. `nil` when there is no queue, or it failed: it is then closed with all
    /// requests in it, and the caller makes a plain system call.
    private func use(_ body: (OpaquePointer, inout Int32) -> Int64) throws(Errno) -> Int? {
        guard let ring = take() else { return nil }
        var code: Int32 = 0
        let done = body(ring.pointer, &code)
        if done == Int64(platter_ring_unusable) {
            failed.store(true, ordering: .relaxed)
            platter_ring_close(ring.pointer)
            return nil
        }
        idle.withLock { $0.append(ring) }
        if done < 0 { throw Errno(rawValue: code) }
        return Int(done)
    }

    /// An idle queue or a new one; `nil` when the system has no more, or one failed before.
    private func take() -> Ring? {
        if failed.load(ordering: .relaxed) { return nil }
        return idle.withLock { $0.popLast() } ?? (try? Self.open(kind))
    }

    /// Like `pread`; `nil` when no queue made the request.
    func read(
        _ descriptor: Int32, _ bytes: UnsafeMutableRawPointer?, _ count: Int, at offset: Int
    ) throws(Errno) -> Int? {
        try use { platter_ring_read($0, descriptor, bytes, count, Int64(offset), &$1) }
    }

    /// Like `pwrite`; `nil` when no queue made the request, or its result is unknown.
    func write(
        _ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, at offset: Int
    ) throws(Errno) -> Int? {
        try use { platter_ring_write($0, descriptor, bytes, count, Int64(offset), &$1) }
    }
}
