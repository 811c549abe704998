import BlockCore
import CHost
import Synchronization
import SystemPackage

/// An open file or device of the host: the common part of `file` and `host_device`.
///
/// Thread-safe. Requests that may change the length, and those that rewrite parts of blocks with direct I/O,
/// hold one gate; all others run in parallel.
final class HostFile: Sendable {
    /// The name that the user stated, for messages.
    let path: String
    /// The path for reopening it: a new image has a temporary name until it is complete.
    let place: String
    /// The descriptor, which keeps its number when the file is reopened.
    let descriptor: Int32
    let options: FileOpenOptions
    let kind: FileStatus.Kind
    let identity: String
    /// The alignment of offsets, lengths and memory for direct I/O, in bytes; 1 with the page cache.
    let alignment: Int
    /// A lower bound of the file's length, in bytes: saves asking for it before each write.
    let knownLength: Atomic<Int>
    /// The queue for requests; `nil` for plain system calls.
    let queue: RequestQueue?
    /// Held by a request that may change the length, or that writes back a block it read.
    let gate = Gate()
    /// Space reserved past the end.
    let growth = Mutex(Growth())

    private struct Use {
        var locks = FileLocks.none
        var toleratesWriters = false
        /// The file that gets the locks back when this one is closed.
        var keeper: HostFile?
    }

    private let use = Mutex(Use())
    /// The errno of the first failed flush; 0 for none.
    private let failedFlush = Atomic<Int32>(0)
    private let isOpen = Atomic<Bool>(true)

    /// Takes over the descriptor, and closes it in the end, also when this throws.
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
    ///   - place: the present path of the file; `nil` for `path`.
    ///   - keeper: the same file, opened and locked by this process: the new one has its locks while it is
    ///     open.
    /// - Throws: `notFound`, `io`, `unsupported`, `denied`, with the message `Could not open 'path': …`;
    ///   `busy` when the use by another process conflicts.
    static func open(
        _ path: String, _ options: FileOpenOptions, at place: String? = nil, keeper: HostFile? = nil
    ) throws(BlockError) -> HostFile {
        let descriptor = try descriptor(place ?? path, named: path, options)
        let file = try HostFile(descriptor, path: path, place: place, options: options)
        if let keeper { try file.takeLocks(from: keeper) }
        return try prepared(file, options)
    }

    /// Opens a new file, or an empty one, for writing: never through a dangling link.
    ///
    /// - Throws: `exists` when it is not empty; `denied`; as ``open(_:_:at:keeper:)``.
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

    /// Wraps an open descriptor, without locks. The file then owns it.
    static func adopting(
        _ descriptor: FileDescriptor, path: String, _ options: FileOpenOptions
    ) throws(BlockError) -> HostFile {
        try HostFile(descriptor, path: path, options: options)
    }

    /// Opens with O_NONBLOCK, so that a named pipe cannot block.
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
        let reported = Int(platter_direct_alignment(descriptor))
        let sector = isDevice ? Int(platter_device_sector_size(descriptor)) : 0
        let alignment = max(reported, sector)
        return alignment.isPowerOfTwo ? alignment : AlignedBuffer.alignmentBytes
    }

    private static func deviceLength(_ descriptor: Int32) -> Int {
        var bytes: Int64 = 0
        return platter_device_size(descriptor, &bytes) == 0 ? Int(bytes) : 0
    }

    // MARK: Flush, reopen and close

    /// On return, everything written is durable, unless the options ignore flushes.
    ///
    /// After one failure every later call fails too: the system reports lost writes only once.
    func flush() throws(BlockError) {
        if options.ignoresFlush { return }
        var code = failedFlush.load(ordering: .relaxed)
        if code == 0 {
            code = platter_flush(descriptor)
            // Pipes and terminals have no data to make durable.
            if code == 0 || (kind != .regular && code == Errno.invalidArgument.rawValue) { return }
            failedFlush.store(code, ordering: .relaxed)
        }
        throw .system(Errno(rawValue: code), path: path)
    }

    /// Opens the same file again in the other mode under the same descriptor number, and changes the locks.
    ///
    /// - Throws: `busy` when the use by another process conflicts, `io` when the name is that of another file
    ///   now; file and locks are then unchanged.
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
            // The old descriptor checks for conflicts, as its own locks do not conflict with it; the new one
            // then takes the locks without a check.
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

    /// Takes the same locks on another descriptor of the same path; if that fails, the locks here are
    /// `before` again.
    private func copyLocks(to opened: Int32, else before: FileLocks) throws(BlockError) {
        do throws(BlockError) {
            try use.withLock { (use) throws(BlockError) in try use.locks.take(on: opened, path: path) }
        } catch {
            try? changeLocks { _ in before }
            throw error
        }
    }

    /// Closes the descriptor, which releases the locks. Closing twice does nothing.
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

    /// Whether our locks keep all other processes from changing the length.
    var isResizedByUsAlone: Bool {
        options.locking != .off && use.withLock { $0.locks.unshared.contains(.resize) }
    }

    /// Takes over the locks of `keeper`, without a moment in which neither has them.
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
        // On a file system without locks this fails, and there are none to take back.
        guard (try? FileLocks.creating.take(on: descriptor, path: path)) != nil else { return }
        use.withLock { $0.locks = .creating }
    }

    /// Takes the locks of a reader or writer.
    func declareUse(toleratingWriters: Bool) throws(BlockError) {
        use.withLock { $0.toleratesWriters = toleratingWriters }
        let (options, readOnly) = (options, options.readOnly)
        try changeLocks { FileLocks(options, readOnly: readOnly, toleratesWriters: $0) }
    }

    /// Replaces the present locks. The argument of `wanted` is whether other writers are tolerated.
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
