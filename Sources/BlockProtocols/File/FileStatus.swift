import BlockCore
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The result of `fstat` on an open file.
struct FileStatus: Sendable {
    enum Kind: Sendable { case regular, directory, blockDevice, characterDevice, other }

    var kind: Kind
    /// The length in bytes; not valid for devices.
    var length: Int
    /// The bytes that the file takes up on its disk.
    var allocatedBytes: Int
    /// The same for two descriptors exactly when both are of one file or device.
    var identity: String

    init(_ descriptor: Int32) throws(Errno) {
        var info = stat()
        if fstat(descriptor, &info) != 0 { throw Errno(rawValue: errno) }
        switch info.st_mode & S_IFMT {
        case S_IFREG: kind = .regular
        case S_IFDIR: kind = .directory
        case S_IFBLK: kind = .blockDevice
        case S_IFCHR: kind = .characterDevice
        default: kind = .other
        }
        length = Int(info.st_size)
        allocatedBytes = Int(info.st_blocks) * 512
        let isDevice = kind == .blockDevice || kind == .characterDevice
        identity = isDevice ? "device:\(info.st_rdev)" : Self.identity(info)
    }

    private static func identity(_ info: stat) -> String { "\(info.st_dev):\(info.st_ino)" }

    /// The identity of the regular file of this name, without following links; `nil` if there is none.
    static func identity(ofName path: String) -> String? {
        var info = stat()
        guard lstat(path.hostPath, &info) == 0, info.st_mode & S_IFMT == S_IFREG else { return nil }
        return identity(info)
    }

    /// The length alone, in bytes.
    static func length(_ descriptor: Int32) throws(Errno) -> Int {
        var info = stat()
        if fstat(descriptor, &info) != 0 { throw Errno(rawValue: errno) }
        return Int(info.st_size)
    }

    /// Sets the length in bytes.
    static func setLength(_ descriptor: Int32, _ length: Int) throws(Errno) {
        while ftruncate(descriptor, off_t(length)) != 0 {
            let code = Errno(rawValue: errno)
            if code != .interrupted { throw code }
        }
    }

    /// The open flag that makes each write durable before it returns.
    static let durableWrites = FileDescriptor.OpenOptions(rawValue: O_DSYNC)

    /// The offset of the next sequential read; `nil` for a stream without offsets.
    static func position(_ descriptor: Int32) -> Int? {
        let position = lseek(descriptor, 0, SEEK_CUR)
        return position < 0 ? nil : Int(position)
    }

    /// A second descriptor of the same open file, closed in programs that are started.
    static func duplicate(_ descriptor: Int32) throws(Errno) -> FileDescriptor {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        if copy < 0 { throw Errno(rawValue: errno) }
        return FileDescriptor(rawValue: copy)
    }

    /// The value of an environment variable; `nil` when it is unset or empty.
    static func environment(_ name: String) -> String? {
        guard let value = getenv(name).map({ String(rawCString: $0) }), !value.isEmpty else { return nil }
        return value
    }

    /// Clears O_NONBLOCK, which was needed only for opening.
    static func makeBlocking(_ descriptor: Int32) {
        let flags = fcntl(descriptor, F_GETFL)
        if flags != -1 { _ = fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) }
    }
}
