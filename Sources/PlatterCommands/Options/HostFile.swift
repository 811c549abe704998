import BlockCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// What commands do with files by their names.
enum HostFile {
    /// The path behind an image's file name, where that is a plain file.
    static func path(of name: String, _ registry: DriverRegistry) -> String? {
        guard let (entry, path) = try? registry.resolve(name), entry.name == "file" else { return nil }
        return path
    }

    static func exists(_ path: String) -> Bool { access(path.hostPath, F_OK) == 0 }

    /// Ends the process at once, as after an interrupt.
    static func endProcess() -> Never { _exit(SignalWatch.interruptedStatus) }

    /// Removes a regular file, and nothing else.
    static func remove(_ path: String) {
        var status = stat()
        guard lstat(path.hostPath, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return }
        unlink(path.hostPath)
    }

    /// The bytes of a file, which has at most `limit`.
    ///
    /// - Throws: `io` with the system's reason; `limit`.
    static func contents(of path: String, limit: Int) throws(BlockError) -> [UInt8] {
        let bytes = try prefix(of: path, count: limit + 1)
        guard bytes.count <= limit else {
            throw BlockError(.limit, "\(path) has more than \(limit) bytes")
        }
        return bytes
    }

    /// The first `count` bytes of a file, or fewer where it has not so many.
    ///
    /// - Throws: `io` with the system's reason.
    static func prefix(of path: String, count: Int) throws(BlockError) -> [UInt8] {
        guard let file = fopen(path.hostPath, "rb") else {
            throw BlockError(.io, "Unable to read \(path): \(String(cString: strerror(errno)))", errno: errno)
        }
        defer { fclose(file) }
        setvbuf(file, nil, _IONBF, 0)
        var bytes = [UInt8](repeating: 0, count: count)
        let found = fread(&bytes, 1, bytes.count, file)
        guard ferror(file) == 0 else {
            throw BlockError(.io, "Unable to read \(path): \(String(cString: strerror(errno)))", errno: errno)
        }
        bytes.removeLast(bytes.count - found)
        return bytes
    }

    /// The absolute path without links and dots, where the file is there.
    static func canonicalPath(_ path: String) -> String? {
        guard let resolved = realpath(path.hostPath, nil) else { return nil }
        defer { free(resolved) }
        return String(rawCString: resolved)
    }
}
