import BlockCore
import CHost
import SystemPackage

/// The locks by which QEMU and Platter show each other their use of an image file.
///
/// Each permission has two bytes of the file: a shared lock at 100 + bit means that its holder uses the
/// permission, one at 200 + bit that no other open may. Locks belong to the open file, so two opens in one
/// process exclude each other too.
struct FileLocks: Sendable, Equatable {
    static let usedBase: Int64 = 100
    static let unsharedBase: Int64 = 200

    /// The permissions in use.
    var used: UsePermissions
    /// The permissions denied to others.
    var unshared: UsePermissions

    static let none = FileLocks(used: [], unshared: [])
    /// For making an image: it is emptied, and no other process may write it.
    static let creating = FileLocks(used: [.write, .resize], unshared: [.write, .resize])

    init(used: UsePermissions, unshared: UsePermissions) {
        self.used = used
        self.unshared = unshared
    }

    /// The locks of an open image.
    ///
    /// - Parameter toleratesWriters: whether the format or the caller allows other writers.
    init(_ options: FileOpenOptions, readOnly: Bool, toleratesWriters: Bool) {
        let isShared = toleratesWriters && (readOnly || options.keepsLength)
        used = options.claims.union(.consistentRead)
        if !readOnly { used.formUnion(isShared ? .write : [.write, .resize]) }
        unshared = isShared ? options.forbids : options.forbids.union([.write, .resize])
    }

    /// Replaces the locks `old` of an open file by these.
    ///
    /// - Parameter required: whether to fail on a file system without such locks, instead of taking none.
    /// - Returns: the present locks: these, or none on a file system without locks.
    /// - Throws: `busy` when the use by another process conflicts, `unsupported`, `io`; the locks are `old`
    ///   then.
    func replace(
        _ old: FileLocks, of descriptor: Int32, path: String, required: Bool
    ) throws(BlockError) -> FileLocks {
        do throws(Failure) {
            try acquire(on: descriptor, except: old)
            do throws(Failure) { try checkOthers(descriptor) } catch {
                old.release(on: descriptor, all: self)
                throw error
            }
        } catch {
            guard case .unsupported = error, !required else { throw error.reported(path) }
            return .none
        }
        release(on: descriptor, all: old)
        return self
    }

    /// Takes these locks on another descriptor of `path`, after ``replace(_:of:path:required:)`` found no
    /// conflict.
    ///
    /// - Throws: as ``replace(_:of:path:required:)``; no lock is held then.
    func take(on descriptor: Int32, path: String) throws(BlockError) {
        do throws(Failure) { try acquire(on: descriptor) } catch { throw error.reported(path) }
    }

    /// Takes the locks that `old` does not have. If one fails, those taken before are released.
    private func acquire(on descriptor: Int32, except old: FileLocks = .none) throws(Failure) {
        var taken: [Int64] = []
        for lock in locks where !old.bytes.contains(lock.byte) {
            let code = Errno(rawValue: platter_lock_shared(descriptor, lock.byte))
            if code.rawValue == 0 {
                taken.append(lock.byte)
                continue
            }
            for byte in taken { _ = platter_unlock(descriptor, byte) }
            throw Failure(code, lock.name)
        }
    }

    /// Releases the locks that `all` has and these do not have.
    private func release(on descriptor: Int32, all: FileLocks) {
        for byte in all.bytes where !bytes.contains(byte) { _ = platter_unlock(descriptor, byte) }
    }

    private typealias Lock = (byte: Int64, name: String)

    /// The lock bytes, with their names in messages.
    private var locks: [Lock] {
        used.bits.map { (Self.usedBase + Int64($0), Self.usedName($0)) }
            + unshared.bits.map { (Self.unsharedBase + Int64($0), Self.unsharedName($0)) }
    }

    private var bytes: [Int64] { locks.map(\.byte) }

    private static func usedName(_ bit: Int) -> String { "\"\(UsePermissions.names[bit])\"" }

    private static func unsharedName(_ bit: Int) -> String { "shared \(usedName(bit))" }

    private func checkOthers(_ descriptor: Int32) throws(Failure) {
        for bit in used.bits {
            try Self.check(descriptor, (Self.unsharedBase + Int64(bit), Self.usedName(bit)))
        }
        for bit in unshared.bits {
            try Self.check(descriptor, (Self.usedBase + Int64(bit), Self.unsharedName(bit)))
        }
    }

    /// Checks that no other open file has a lock on the byte.
    ///
    /// - Throws: `busy` if one has.
    private static func check(_ descriptor: Int32, _ lock: Lock) throws(Failure) {
        var isLocked: Int32 = 0
        let code = Errno(rawValue: platter_is_locked(descriptor, lock.byte, &isLocked))
        if code.rawValue != 0 { throw Failure(code, lock.name) }
        if isLocked != 0 { throw .busy(lock.name) }
    }

    /// The reason why a lock could not be taken.
    private enum Failure: Error {
        /// Another program holds a conflicting lock.
        case busy(String)
        /// The file system or the kernel has no such locks.
        case unsupported(Errno)
        case failed(String, Errno)

        /// - Parameter name: the name of the lock in messages.
        init(_ code: Errno, _ name: String) {
            switch code {
            // By POSIX, `fcntl` fails with either for a conflicting lock.
            case .resourceTemporarilyUnavailable, .permissionDenied: self = .busy(name)
            case .noLocks, .notSupported, .notSupportedOnSocket, .noFunction, .invalidArgument:
                self = .unsupported(code)
            default: self = .failed(name, code)
            }
        }

        func reported(_ path: String) -> BlockError {
            switch self {
            case .busy(let name):
                BlockError(
                    .busy, "Failed to get \(name) lock", path: path,
                    hint: "Is another process using the image [\(PrintableText.shown(path))]?")
            case .unsupported(let code):
                BlockError(
                    .unsupported, "The file system does not support locks", errno: code.rawValue, path: path)
            case .failed(let name, let code):
                BlockError.system(code, path: path).prefixed("Failed to get \(name) lock")
            }
        }
    }
}
