import BlockCore
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Operations on the host's files by their names; an open file is a ``HostFile``.
///
/// Thread-safe: it has no state.
public enum HostPath {
    /// The most links in a row, which is the kernel's limit.
    private static let maximumLinks = 40
    /// The most bytes of the image's name in that of its temporary file: a file name has at most 255 bytes.
    private static let ownNameBytes = 200

    static func exists(_ path: String) -> Bool { access(path.hostPath, F_OK) == 0 }

    /// The absolute path without links and dots; `nil` when no such file exists.
    public static func canonical(_ path: String) -> String? {
        guard let resolved = realpath(path.hostPath, nil) else { return nil }
        defer { free(resolved) }
        return String(rawCString: resolved)
    }

    /// The target of a dangling symbolic link; other names unchanged.
    static func followingLinks(_ path: String) -> String {
        var path = path
        for _ in 0..<maximumLinks {
            var target = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
            let count = readlink(path.hostPath, &target, target.count - 1)
            guard count > 0 else { return path }
            let next = String(raw: target[..<count].map { UInt8(bitPattern: $0) })
            path = FileNames.isAbsolute(next) ? next : FileNames.folder(of: path) + next
        }
        return path
    }

    // MARK: Temporary files

    /// The folder for temporary files.
    static var temporaryFolder: String { FileStatus.environment("TMPDIR") ?? "/var/tmp" }

    /// Makes an empty file in `$TMPDIR` or `/var/tmp`, with a name that begins with `prefix`, and returns its
    /// name.
    ///
    /// - Throws: `io` with the system's reason.
    public static func makeTemporary(prefix: String) throws(BlockError) -> String {
        let folder = temporaryFolder
        var name = "\(folder)/\(prefix).XXXXXX".hostPath
        let descriptor = mkstemp(&name)
        guard descriptor >= 0 else {
            let reason = String(cString: strerror(errno))
            throw BlockError(
                .io, "Could not make a temporary file in '\(folder)': \(reason)", errno: errno)
        }
        // The caller opens the file by its name.
        try? FileDescriptor(rawValue: descriptor).close()
        return String(raw: name.dropLast().map { UInt8(bitPattern: $0) })
    }

    /// An unused name in the same folder. It contains the image's name and marks the file as incomplete.
    static func temporaryName(beside path: String) -> String {
        let own = FileNames.lastComponent(path).rawBytes.prefix(ownNameBytes)
        let mark = String(UInt64.random(in: 0...UInt64.max), radix: 36)
        return FileNames.folder(of: path) + String(raw: own) + ".\(mark).platter-partial"
    }

    /// Removes the name of a regular file, and of nothing else.
    public static func remove(_ path: String) {
        if FileStatus.identity(ofName: path) != nil { unlink(path.hostPath) }
    }

    /// Removes the name of a regular file, if it is still that of the file with this identity.
    static func remove(_ path: String, identity: String) {
        guard FileStatus.identity(ofName: path) == identity else { return }
        unlink(path.hostPath)
    }

    // MARK: Contents

    /// The bytes of a file, which must have at most `limit` bytes.
    ///
    /// - Throws: `io` with the system's reason; `limit` for a longer file.
    /// - Complexity: O(*limit*) in memory.
    public static func contents(of path: String, limit: Int) throws(BlockError) -> [UInt8] {
        let bytes = try prefix(of: path, count: limit + 1)
        guard bytes.count <= limit else {
            throw BlockError(.limit, "\(path) has more than \(limit) bytes")
        }
        return bytes
    }

    /// The first `count` bytes of a file, or all of a shorter one.
    ///
    /// - Throws: `io` with the system's reason.
    public static func prefix(of path: String, count: Int) throws(BlockError) -> [UInt8] {
        guard let file = fopen(path.hostPath, "rb") else { throw unreadable(path) }
        defer { fclose(file) }
        setvbuf(file, nil, _IONBF, 0)
        var bytes = [UInt8](repeating: 0, count: count)
        let found = fread(&bytes, 1, bytes.count, file)
        guard ferror(file) == 0 else { throw unreadable(path) }
        bytes.removeLast(bytes.count - found)
        return bytes
    }

    private static func unreadable(_ path: String) -> BlockError {
        let code = errno
        return BlockError(.io, "Unable to read \(path): \(String(cString: strerror(code)))", errno: code)
    }
}
