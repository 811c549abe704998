import BlockCore
import CHost
import Synchronization
import SystemPackage

/// The files that a command makes for one image, until the image is complete.
///
/// A new image file has a temporary name in the same folder until ``commit()``: a killed process leaves
/// nothing under the image's name. An existing image file is emptied in place, gets its first sector last,
/// and keeps its owner, mode and links. Both stay open and locked until the end, also while no driver of this
/// process has them open. Further files (extents, a data file) are made under their names, before the image
/// that names them.
///
/// A failure removes only files made here: they are compared by device and inode. Thread-safe.
public final class NewFiles: Sendable {
    /// The image's file.
    private struct Main {
        /// The final path of the image, with links followed.
        var path: String
        /// The present path; the same as ``path`` for an existing file.
        var place: String
        /// The open file, locked while no driver of this process has it open.
        var keeper: HostFile
        /// The first sector of an existing file, which is written last.
        let start = HeldStart()
        var isNew: Bool { !place.isSameName(as: path) }
    }

    private struct Further {
        var path: String
        var identity: String
    }

    private struct State {
        var main: Main?
        var further: [Further] = []
    }

    /// The image's path, as the caller states it.
    private let path: String
    private let state = Mutex(State())

    /// - Parameter path: the image's file; all others that are made are further files.
    public init(for path: String) { self.path = path }

    /// The `file` protocol, making files through this object.
    public var entry: ProtocolEntry {
        var entry = FileDriver.entry
        let (open, create) = (entry.open, entry.create)
        entry.open = { [self] (path, options, settings) throws(BlockError) -> any ProtocolDriver in
            guard path.isSameName(as: self.path), let main = state.withLock({ $0.main }) else {
                return try open(path, &options, settings)
            }
            return try reopen(main, FileOpenOptions(settings, taking: &options))
        }
        entry.create = { [self] (path, options) throws(BlockError) in
            if path.isSameName(as: self.path) { return try createMain(options) }
            let wasThere = FileStatus.identity(ofName: path) != nil
            try create?(path, options)
            guard !wasThere, let identity = FileStatus.identity(ofName: path) else { return }
            state.withLock { $0.further.append(Further(path: path, identity: identity)) }
        }
        return entry
    }

    private func createMain(_ options: CreateOptions) throws(BlockError) {
        let preallocation = try options.preallocation()
        let isThere = HostPath.exists(path)
        let final = isThere ? path : HostPath.followingLinks(path)
        let place = isThere ? final : HostPath.temporaryName(beside: final)
        let descriptor = try FileDriver.openForCreation(place, isNew: !isThere, named: path)
        let keeper = try HostFile.adopting(
            descriptor, path: path, FileOpenOptions(OpenSettings(readOnly: false)))
        do throws(BlockError) {
            try keeper.changeLocks { _ in .creating }
        } catch {
            // An existing file belongs to the user, and may be in use.
            if !isThere { HostPath.remove(place, identity: keeper.identity) }
            keeper.close()
            throw error
        }
        let main = Main(path: final, place: place, keeper: keeper)
        state.withLock { $0.main = main }
        try FileDriver.empty(keeper, size: options.integer(.size) ?? 0, preallocation, options)
    }

    private func reopen(_ main: Main, _ options: FileOpenOptions) throws(BlockError) -> any ProtocolDriver {
        let file = try HostFile.open(path, options, at: main.place, keeper: main.keeper)
        if file.kind == .blockDevice || file.kind == .characterDevice { return HostDeviceDriver(file) }
        try FileDriver.checkRegular(file)
        return main.isNew ? FileDriver(file) : HeldStartDriver(FileDriver(file), main.start)
    }

    /// Gives the image its final name.
    ///
    /// To be called when it is complete and closed.
    ///
    /// - Throws: `exists` when another program made a file of that name, which stays; `io` when renaming
    ///   fails: the image then keeps its temporary name, which is in the message; `noSpace`.
    public func commit() throws(BlockError) {
        guard let main = state.withLock({ $0.main }) else { return }
        if main.keeper.kind == .regular, !main.isNew { try main.start.release(to: main.keeper) }
        if main.isNew {
            let code = Errno(rawValue: platter_rename_new(main.place.hostPath, main.path.hostPath))
            if code == .fileExists {
                throw BlockError(
                    .exists, "'\(path)' was made by another program meanwhile, and is left as it is",
                    errno: code.rawValue, path: path)
            }
            guard code.rawValue == 0 else {
                finish()
                throw BlockError.system(code, path: path)
                    .prefixed("The image is whole, but '\(main.place)' could not be renamed to '\(path)'")
            }
        }
        finish()
    }

    /// Removes the new files after a failure, and empties an existing image file, which must not look like an
    /// image.
    ///
    /// Does nothing after ``commit()``.
    public func discard() {
        remove()
        finish()
    }

    /// Removes and empties files as ``discard()`` does, without closing them, while another thread may still
    /// write: for a process that ends at once.
    public func remove() {
        let (main, further) = state.withLock { ($0.main, $0.further) }
        if let main {
            if main.isNew {
                HostPath.remove(main.place, identity: main.keeper.identity)
            } else if main.keeper.kind == .regular {
                try? FileStatus.setLength(main.keeper.descriptor, 0)
            }
        }
        for file in further where !Self.isInUse(file.path) {
            HostPath.remove(file.path, identity: file.identity)
        }
    }

    /// Whether another process has locks on a file that this one has closed.
    private static func isInUse(_ path: String) -> Bool {
        do throws(BlockError) {
            try HostFile.open(path, FileOpenOptions(OpenSettings(readOnly: false))).close()
            return false
        } catch {
            return error.kind == .busy
        }
    }

    private func finish() {
        let main = state.withLock { state in
            defer { state = State() }
            return state.main
        }
        main?.keeper.close()
    }
}
