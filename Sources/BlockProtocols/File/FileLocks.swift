import BlockCore
import CHost
import Synchronization

/// What a user of an image does with it, or lets others do; the bit numbers are the lock bytes' offsets.
struct LockPermissions: OptionSet, Sendable {
    let rawValue: Int
    static let consistentRead = LockPermissions(rawValue: 1)
    static let write = LockPermissions(rawValue: 2)
    static let writeUnchanged = LockPermissions(rawValue: 4)
    static let resize = LockPermissions(rawValue: 8)

    static let names = ["consistent read", "write", "write unchanged", "resize"]

    /// The numbers of the bits that are set.
    var bits: [Int] { Self.names.indices.filter { rawValue & 1 << $0 != 0 } }
}

/// The locks by which QEMU and Platter tell each other how they use an image file.
///
/// For each permission there are two bytes of the file: at 100 + bit a shared lock says "I use this", at
/// 200 + bit "nobody else may". Locks belong to the open file, so two opens in one process notice each other.
struct FileLocks: Sendable, Equatable {
    static let usedBase: Int64 = 100
    static let unsharedBase: Int64 = 200

    /// What is done with the file.
    var used: LockPermissions
    /// What others must not do meanwhile.
    var unshared: LockPermissions

    static let none = FileLocks(used: [], unshared: [])
    /// For making an image: it is emptied, and nobody else may be writing it.
    static let creating = FileLocks(used: [.write, .resize], unshared: [.write, .resize])

    init(used: LockPermissions, unshared: LockPermissions) {
        self.used = used
        self.unshared = unshared
    }

    /// What an open image wants.
    init(readOnly: Bool, sharesWriting: Bool) {
        used = readOnly ? .consistentRead : [.consistentRead, .write, .resize]
        unshared = sharesWriting ? [] : [.write, .resize]
    }

    /// Replaces the locks `old` of an open file by these.
    ///
    /// - Parameter required: fail where the file system has no such locks, instead of going without.
    /// - Throws: `busy` when others' use conflicts; the locks are `old` then.
    func replace(_ old: FileLocks, of descriptor: Int32, path: String, required: Bool) throws(BlockError) {
        guard acquire(on: descriptor, except: old) else {
            if required {
                throw BlockError(.unsupported, "The file system does not support locks", path: path)
            }
            return
        }
        do throws(BlockError) { try checkOthers(descriptor, path: path) } catch {
            old.release(on: descriptor, all: self)
            throw error
        }
        release(on: descriptor, all: old)
    }

    /// Takes these locks without asking whether anybody minds. `false` where locks do not work.
    @discardableResult
    func acquire(on descriptor: Int32, except old: FileLocks = .none) -> Bool {
        for byte in bytes where !old.bytes.contains(byte) {
            if platter_lock_shared(descriptor, byte) != 0 { return false }
        }
        return true
    }

    /// Gives back what `all` has and these have not.
    private func release(on descriptor: Int32, all: FileLocks) {
        for byte in all.bytes where !bytes.contains(byte) { _ = platter_unlock(descriptor, byte) }
    }

    private var bytes: [Int64] {
        used.bits.map { Self.usedBase + Int64($0) } + unshared.bits.map { Self.unsharedBase + Int64($0) }
    }

    private func checkOthers(_ descriptor: Int32, path: String) throws(BlockError) {
        for bit in used.bits where platter_is_locked(descriptor, Self.unsharedBase + Int64(bit)) == 1 {
            throw Self.conflict("Failed to get \"\(LockPermissions.names[bit])\" lock", path)
        }
        for bit in unshared.bits where platter_is_locked(descriptor, Self.usedBase + Int64(bit)) == 1 {
            throw Self.conflict("Failed to get shared \"\(LockPermissions.names[bit])\" lock", path)
        }
    }

    private static func conflict(_ message: String, _ path: String) -> BlockError {
        BlockError(.busy, message, path: path, hint: "Is another process using the image [\(path)]?")
    }
}
