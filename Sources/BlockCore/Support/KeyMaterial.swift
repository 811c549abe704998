import CHost
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Secret bytes: a passphrase or a key.
///
/// Wiped from memory when the last reference is dropped. While a secret exists, the process leaves no core
/// dump, and no other program of the same user can read its memory.
///
/// Thread-safe: immutable. Not printable, comparable or hashable, so that it does not leak by accident.
public final class KeyMaterial: @unchecked Sendable {
    @usableFromInline
    let storage: UnsafeMutableRawBufferPointer

    /// `count` zero bytes, changed by `fill`.
    ///
    /// - Throws: errors of `fill`.
    public init<Failure: Error>(
        count: Int, _ fill: (inout MutableRawSpan) throws(Failure) -> Void
    ) throws(Failure) {
        storage = .allocate(byteCount: max(count, 1), alignment: 16)
        storage.initializeMemory(as: UInt8.self, repeating: 0)
        self.count = count
        SecretMemory.begin()
        var span = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: storage[0..<count]))
        try fill(&span)
    }

    /// A copy of `bytes`.
    public convenience init(_ bytes: RawSpan) {
        self.init(count: bytes.byteCount) { span in span.copy(from: bytes) }
    }

    /// The UTF-8 of `text`.
    ///
    /// The text itself is not wiped.
    public convenience init(_ text: String) {
        self.init(Array(text.utf8).span.bytes)
    }

    deinit {
        Self.wipe(storage)
        storage.deallocate()
        SecretMemory.end()
    }

    /// The size in bytes.
    public let count: Int

    /// The bytes.
    @inlinable
    public var bytes: RawSpan {
        @_lifetime(borrow self)
        get {
            let span = RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: storage[0..<count]))
            return _overrideLifetime(span, borrowing: self)
        }
    }

    /// Overwrites memory with zeroes, in a way that an optimiser cannot leave out.
    public static func wipe(_ memory: UnsafeMutableRawBufferPointer) {
        guard let start = memory.baseAddress else { return }
        #if canImport(Darwin)
            memset_s(start, memory.count, 0, memory.count)
        #else
            explicit_bzero(start, memory.count)
        #endif
    }

    /// Overwrites the bytes of a span with zeroes, in a way that an optimiser cannot leave out.
    public static func wipe(_ bytes: inout MutableRawSpan) {
        bytes.withUnsafeMutableBytes { wipe($0) }
    }
}

/// Makes the memory of the process unreadable to other programs while it holds secrets. Thread-safe.
private enum SecretMemory {
    private struct State {
        var secrets = 0
        /// Whether the process could be dumped before the first secret.
        var wasDumpable = false
    }

    private static let state = Mutex(State())

    static func begin() {
        state.withLock { state in
            state.secrets += 1
            guard state.secrets == 1 else { return }
            state.wasDumpable = platter_is_dumpable() == 1
            if state.wasDumpable { platter_set_dumpable(0) }
        }
    }

    static func end() {
        state.withLock { state in
            state.secrets -= 1
            if state.secrets == 0 && state.wasDumpable { platter_set_dumpable(1) }
        }
    }
}
