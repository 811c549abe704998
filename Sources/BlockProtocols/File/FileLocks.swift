import BlockCore
import CHost
import SystemPackage

/// The locks by which QEMU and Platter tell each other how they use an image file.
///
/// For each permission there are two bytes of the file: at 100 + bit a shared lock says "I use this", at
/// 200 + bit "nobody else may". Locks belong to the open file, so two opens in one process notice each other.
struct FileLocks: Sendable, Equatable {
    static let usedBase: Int64 = 100
    static let unsharedBase: Int64 = 200

    /// What is done with the file.
    var used: UsePermissions
    /// What others must not do meanwhile.
    var unshared: UsePermissions

    static let none = FileLocks(used: [], unshared: [])
    /// For making an image: it is emptied, and nobody else may be writing it.
    static let creating = FileLocks(used: [.write, .resize], unshared: [.write, .resize])

    init(used: UsePermissions, unshared: UsePermissions) {
        self.used = used
        self.unshared = unshared
    }

    /// What an open image wants.
    ///
    /// - Parameter toleratesWriters: whether the format bears with others writing, or the caller does.
    init(_ options: FileOpenOptions, readOnly: Bool, toleratesWriters: Bool) {
        let isShared = toleratesWriters && (readOnly || options.keepsLength)
        used = options.claims.union(.consistentRead)
        if !readOnly { used.formUnion(isShared ? .write : [.write, .resize]) }
        unshared = isShared ? options.forbids : options.forbids.union([.write, .resize])
    }

    /// Replaces the locks `old` of an open file by these.
    ///
    /// - Parameter required: fail where the file system has no such locks, instead of going without.
    /// - Returns: the locks that are held now: these, or none where the file system has none.
    /// - Throws: `busy` when others' use conflicts, `io` where locking fails; the locks are `old` then.
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

    /// Takes these locks on another open file of `path`, after ``replace(_:of:path:required:)`` found that
    /// nobody minds.
    ///
    /// - Throws: as that does; none is held then.
    func take(on descriptor: Int32, path: String) throws(BlockError) {
        do throws(Failure) { try acquire(on: descriptor) } catch { throw error.reported(path) }
    }

    /// Takes those that `old` has not. What was taken is given back when one cannot be had.
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

    /// Gives back what `all` has and these have not.
    private func release(on descriptor: Int32, all: FileLocks) {
        for byte in all.bytes where !bytes.contains(byte) { _ = platter_unlock(descriptor, byte) }
    }

    private typealias Lock = (byte: Int64, name: String)

    /// The lock bytes, with what messages call them.
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

    /// - Throws: when somebody else holds a lock on the byte.
    private static func check(_ descriptor: Int32, _ lock: Lock) throws(Failure) {
        var isLocked: Int32 = 0
        let code = Errno(rawValue: platter_is_locked(descriptor, lock.byte, &isLocked))
        if code.rawValue != 0 { throw Failure(code, lock.name) }
        if isLocked != 0 { throw .busy(lock.name) }
    }

    /// Why a lock was not had.
    private enum Failure: Error {
        /// Another program holds one that conflicts.
        case busy(String)
        /// The file system or the kernel has no such locks.
        case unsupported(Errno)
        case failed(String, Errno)

        /// - Parameter name: what messages call the lock.
        init(_ code: Errno, _ name: String) {
            switch code {
            // What POSIX has fcntl answer for a lock that somebody holds.
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
