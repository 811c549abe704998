import BlockCore
import Synchronization

/// One change to the files of a ``TestStore``, in the order in which they were made.
public enum StorageEvent: Sendable, Equatable {
    case write(file: String, offset: Int, bytes: [UInt8])
    case zero(file: String, range: Range<Int>)
    case truncate(file: String, length: Int)
    /// Everything before it in this file is durable.
    case flush(file: String)

    public var file: String {
        switch self {
        case .write(let file, _, _), .zero(let file, _), .truncate(let file, _), .flush(let file): file
        }
    }
}

/// A folder of files in memory that logs every change, and that can be made to fail.
///
/// Serves as the protocol `file` of a registry. Thread-safe.
public final class TestStore: Sendable {
    struct State {
        var files: [String: SparseBytes]
        var log: [StorageEvent] = []
        /// How many parts of ``SparseBytes`` all files together may take; `nil` for any number.
        var capacity: Int?
        /// Whether files share space with each other, as on file systems with reflinks.
        var sharesSpace = false
        /// How many ranges are still shared before sharing is refused.
        var sharesLeft = Int.max
        var sharedBytes = 0
        /// How many writes did not fit.
        var refusals = 0
        /// How many drivers that the protocol opened are not closed.
        var openDisks = 0

        var storedChunks: Int { files.values.reduce(0) { $0 + $1.storedChunks } }
    }

    let state: Mutex<State>
    /// Which call fails; shared by all files.
    public let faults = FaultPlan()

    public init(_ files: [String: SparseBytes] = [:]) { state = Mutex(State(files: files)) }

    /// The files as they are now.
    public var files: [String: SparseBytes] { state.withLock { $0.files } }
    public var log: [StorageEvent] { state.withLock { $0.log } }
    /// How many events were logged so far.
    public var logCount: Int { state.withLock { $0.log.count } }
    /// The space of this disk in 4 KiB blocks, with which it is full; `nil` for any number of them.
    public var capacity: Int? {
        get { state.withLock { $0.capacity } }
        set { state.withLock { $0.capacity = newValue } }
    }
    /// How many blocks are in use.
    public var usedBlocks: Int { state.withLock { $0.storedChunks } }
    /// How many writes found no space.
    public var refusals: Int { state.withLock { $0.refusals } }
    /// Whether files share space with each other, as on file systems with reflinks.
    public var sharesSpace: Bool {
        get { state.withLock { $0.sharesSpace } }
        set { state.withLock { $0.sharesSpace = newValue } }
    }
    /// How many ranges are still shared before sharing is refused.
    public var sharesLeft: Int {
        get { state.withLock { $0.sharesLeft } }
        set { state.withLock { $0.sharesLeft = newValue } }
    }
    /// How many bytes were shared instead of written.
    public var sharedBytes: Int { state.withLock { $0.sharedBytes } }
    /// How many drivers that the protocol ``entry`` opened are not closed, nor freed.
    public var openDisks: Int { state.withLock { $0.openDisks } }
    public func clearLog() { state.withLock { $0.log = [] } }

    public subscript(name: String) -> SparseBytes? {
        get { state.withLock { $0.files[name] } }
        set { state.withLock { $0.files[name] = newValue } }
    }

    /// A driver for that file, which is made when it is not there.
    public func disk(_ name: String) -> any ProtocolDriver { disk(name, whenClosed: nil) }

    private func disk(_ name: String, whenClosed: (@Sendable () -> Void)?) -> any ProtocolDriver {
        state.withLock { state in
            if state.files[name] == nil { state.files[name] = SparseBytes() }
        }
        return FaultDisk(CrashDisk(store: self, file: name), plan: faults, whenClosed: whenClosed)
    }

    /// A driver for that file which counts among ``openDisks``.
    private func countedDisk(_ name: String) -> any ProtocolDriver {
        state.withLock { $0.openDisks += 1 }
        return disk(name, whenClosed: { [self] in state.withLock { $0.openDisks -= 1 } })
    }

    /// This store as the protocol `file`.
    public var entry: ProtocolEntry {
        ProtocolEntry(
            name: "file", schemes: ["file"],
            createOptions: [
                CreateOption(.size, .size, help: "Length"),
                CreateOption(.preallocation, .string, help: "Space to reserve"),
            ],
            open: { (name, _, _) throws(BlockError) -> any ProtocolDriver in
                guard self[name] != nil else {
                    throw BlockError(.notFound, "No such file or directory", errno: 2, path: name)
                }
                return self.countedDisk(name)
            },
            create: { (name, options) throws(BlockError) in
                let disk = self.disk(name)
                try disk.truncate(to: 0, preallocation: .off)
                try disk.truncate(to: options.integer(.size) ?? 0, preallocation: .off)
            })
    }

    /// A registry of `formats` over this store.
    public func registry(_ formats: [any FormatDriver.Type]) -> DriverRegistry {
        DriverRegistry(formats: formats, protocols: [entry])
    }
}
