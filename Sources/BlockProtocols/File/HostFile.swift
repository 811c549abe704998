import BlockCore
import CHost
import Synchronization
import SystemPackage

/// An open file or device of the host: the part that `file` and `host_device` share.
///
/// Thread-safe. Requests that may change the length, and those that rewrite parts of blocks past the page
/// cache, pass through one gate; all others run side by side.
final class HostFile: Sendable {
    /// As the user named it, for messages.
    let path: String
    /// Where it is opened again: a new image has another name until it is whole.
    let place: String
    /// Keeps its number when the file is reopened.
    let descriptor: Int32
    let options: FileOpenOptions
    let kind: FileStatus.Kind
    let identity: String
    /// What direct I/O wants offsets, lengths and memory to be multiples of; 1 through the page cache.
    let alignment: Int
    /// The file is at least this long, in bytes; saves asking for it before each write.
    let knownLength: Atomic<Int>
    /// Where requests go instead of plain system calls.
    let queue: RequestQueue?
    /// Held by whoever may change the length or writes back a block that it read.
    let gate = Gate()
    /// Space that was taken past the end.
    let growth = Mutex(Growth())

    private struct Use {
        var locks = FileLocks.none
        var toleratesWriters = false
        /// Gets the locks back when this one is closed.
        var keeper: HostFile?
    }

    private let use = Mutex(Use())
    /// The errno of the first flush that failed; 0 for none.
    private let failedFlush = Atomic<Int32>(0)
    private let isOpen = Atomic<Bool>(true)

    /// Takes over the descriptor, which it closes in the end (also when this throws).
    private init(
        _ opened: FileDescriptor, path: String, place: String? = nil, options: FileOpenOptions
    ) throws(BlockError) {
        self.path = path
        self.place = place ?? path
        self.options = options
        descriptor = opened.rawValue
        let number = opened.rawValue
        let status: FileStatus
        do throws(Errno) { status = try FileStatus(number) } catch {
            try? opened.close()
            throw .couldNotOpen(path, error)
        }
        do throws(BlockError) {
            queue = options.engine == .threads ? nil : try RequestQueue(options.engine)
        } catch {
            try? opened.close()
            throw error.concerning(path)
        }
        kind = status.kind
        identity = status.identity
        let isDevice = status.kind != .regular
        alignment = options.isDirect ? Self.directAlignment(number, isDevice: isDevice) : 1
        knownLength = Atomic(isDevice ? Self.deviceLength(number) : status.length)
    }

    deinit { close() }

    /// Opens an existing file or device and takes the locks.
    ///
    /// - Parameters:
    ///   - place: where the file is, if not at `path`.
    ///   - keeper: the same file, open and locked by us, whose locks this one has while it is open.
    /// - Throws: with the message `Could not open 'path': …`, or `busy` when another process's use conflicts.
    static func open(
        _ path: String, _ options: FileOpenOptions, at place: String? = nil, keeper: HostFile? = nil
    ) throws(BlockError) -> HostFile {
        let descriptor = try descriptor(place ?? path, named: path, options)
        let file = try HostFile(descriptor, path: path, place: place, options: options)
        if let keeper { try file.takeLocks(from: keeper) }
        return try prepared(file, options)
    }

    /// Opens a new file, or an empty one, for writing: never through a link that leads to nothing.
    ///
    /// - Throws: `exists` when it is not empty; `denied`; as for opening.
    static func make(_ path: String, _ options: FileOpenOptions) throws(BlockError) -> HostFile {
        let descriptor = try NewName(path, options.confinement).make()
        let file = try prepared(try HostFile(descriptor, path: path, options: options), options)
        guard file.kind == .regular, file.knownLength.load(ordering: .relaxed) == 0 else {
            file.close()
            throw BlockError(.exists, "'\(path)' is there already and not empty", path: path)
        }
        return file
    }

    private static func prepared(
        _ file: HostFile, _ options: FileOpenOptions
    ) throws(BlockError) -> HostFile {
        if !options.declaresUseLater { try file.declareUse(toleratingWriters: false) }
        FileStatus.makeBlocking(file.descriptor)
        return file
    }

    /// Wraps a descriptor that is open already, without locks; the file is its owner from now on.
    static func adopting(
        _ descriptor: FileDescriptor, path: String, _ options: FileOpenOptions
    ) throws(BlockError) -> HostFile {
        try HostFile(descriptor, path: path, options: options)
    }

    /// Opens without waiting, so that a named pipe cannot hold us up.
    private static func descriptor(
        _ place: String, named path: String, _ options: FileOpenOptions
    ) throws(BlockError) -> FileDescriptor {
        var flags: FileDescriptor.OpenOptions = [.closeOnExec, .nonBlocking]
        if options.isWriteThrough { flags.insert(FileStatus.durableWrites) }
        if options.isDirect { flags.insert(.init(rawValue: platter_direct_flag())) }
        do {
            let mode = options.readOnly ? FileDescriptor.AccessMode.readOnly : .readWrite
            let opened =
                try options.confinement.map { try ConfinedName($0).open(mode, flags) }
                ?? FileDescriptor.open(FilePath(platformString: place.hostPath), mode, options: flags)
            if options.isDirect { _ = platter_disable_cache(opened.rawValue) }
            return opened
        } catch {
            if let denial = error as? BlockError { throw denial }
            let code = error as? Errno ?? .ioError
            var failure = BlockError.couldNotOpen(path, code)
            if options.isDirect && code == .invalidArgument {
                failure.hint = "The file system may not support O_DIRECT"
            }
            throw failure
        }
    }

    private static func directAlignment(_ descriptor: Int32, isDevice: Bool) -> Int {
        let told = Int(platter_direct_alignment(descriptor))
        let sector = isDevice ? Int(platter_device_sector_size(descriptor)) : 0
        let alignment = max(told, sector)
        return alignment.isPowerOfTwo ? alignment : AlignedBuffer.alignmentBytes
    }

    private static func deviceLength(_ descriptor: Int32) -> Int {
        var bytes: Int64 = 0
        return platter_device_size(descriptor, &bytes) == 0 ? Int(bytes) : 0
    }

    // MARK: Life

    /// On return, what was written is durable, unless the cache mode says not to care.
    ///
    /// After one failure every later call fails too: the system reports lost writes only once.
    func flush() throws(BlockError) {
        if options.ignoresFlush { return }
        var code = failedFlush.load(ordering: .relaxed)
        if code == 0 {
            code = platter_flush(descriptor)
            // Pipes and terminals keep nothing that could be made durable.
            if code == 0 || (kind != .regular && code == Errno.invalidArgument.rawValue) { return }
            failedFlush.store(code, ordering: .relaxed)
        }
        throw .system(Errno(rawValue: code), path: path)
    }

    /// Opens the same file again in the other mode under the same descriptor number, and changes the locks.
    ///
    /// - Throws: `busy` when others' use conflicts, `io` when the name is another file's now; file and locks
    ///   are as they were then.
    func reopen(readOnly: Bool) throws(BlockError) {
        releaseReserve()
        var options = options
        options.readOnly = readOnly
        let before = use.withLock { $0.locks }
        let opened = try Self.descriptor(place, named: path, options)
        do throws(BlockError) {
            let status = try reporting(path) { () throws(Errno) in try FileStatus(opened.rawValue) }
            guard status.identity == identity else {
                throw BlockError(
                    .io, "Could not reopen '\(path)': the name is another file's now", path: path)
            }
            // The old file asks for the locks, where our own do not count; the new one then just takes them.
            try changeLocks { FileLocks(options, readOnly: readOnly, toleratesWriters: $0) }
            try copyLocks(to: opened.rawValue, else: before)
        } catch {
            try? opened.close()
            throw error
        }
        FileStatus.makeBlocking(opened.rawValue)
        let code = platter_replace_descriptor(opened.rawValue, descriptor)
        if code == 0 { return }
        try? changeLocks { _ in before }
        throw .system(Errno(rawValue: code), path: path)
    }

    /// Takes our locks on another open file of the same path, too; when that fails, ours are `before` again.
    private func copyLocks(to opened: Int32, else before: FileLocks) throws(BlockError) {
        do throws(BlockError) {
            try use.withLock { (use) throws(BlockError) in try use.locks.take(on: opened, path: path) }
        } catch {
            try? changeLocks { _ in before }
            throw error
        }
    }

    /// Closes the descriptor, which gives the locks back. Closing twice does nothing.
    func close() {
        if isOpen.load(ordering: .acquiring) { releaseReserve() }
        if isOpen.exchange(false, ordering: .acquiringAndReleasing) {
            use.withLock { use in
                use.keeper?.takeBackLocks()
                use.keeper = nil
            }
            try? FileDescriptor(rawValue: descriptor).close()
        }
    }

    /// Whether our locks keep all others from changing the length.
    var isResizedByUsAlone: Bool {
        options.locking != .off && use.withLock { $0.locks.unshared.contains(.resize) }
    }

    /// Goes on with the locks of another open file of ours, without a moment in which nobody has them.
    private func takeLocks(from keeper: HostFile) throws(BlockError) {
        guard keeper.identity == identity else {
            throw BlockError(.io, "'\(path)' is another file by now", path: path)
        }
        guard options.locking != .off, kind == .regular || kind == .blockDevice else { return }
        let held = keeper.use.withLock { $0.locks }
        try held.take(on: descriptor, path: path)
        use.withLock { use in
            use.locks = held
            use.keeper = keeper
        }
        try keeper.changeLocks { _ in .none }
    }

    private func takeBackLocks() {
        // A file system without locks has none to take back.
        guard (try? FileLocks.creating.take(on: descriptor, path: path)) != nil else { return }
        use.withLock { $0.locks = .creating }
    }

    /// Takes the locks of a reader or writer.
    func declareUse(toleratingWriters: Bool) throws(BlockError) {
        use.withLock { $0.toleratesWriters = toleratingWriters }
        let (options, readOnly) = (options, options.readOnly)
        try changeLocks { FileLocks(options, readOnly: readOnly, toleratesWriters: $0) }
    }

    /// Replaces the locks that are held. `wanted` gets to know whether other writers are tolerated.
    func changeLocks(_ wanted: (Bool) -> FileLocks) throws(BlockError) {
        guard options.locking != .off, kind == .regular || kind == .blockDevice else { return }
        try use.withLock { (use) throws(BlockError) in
            let wanted = wanted(use.toleratesWriters || options.forceShare)
            use.locks = try wanted.replace(
                use.locks, of: descriptor, path: path, required: options.locking == .on)
        }
    }
}

extension BlockError {
    static func couldNotOpen(_ path: String, _ code: Errno) -> BlockError {
        BlockError.system(code, path: path).prefixed("Could not open '\(path)'")
    }
}
