import BlockCore
import CHost
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A descriptor for the identity and kind of a file or folder, which is not open for reading or writing.
///
/// Closed with its last reference. Thread-safe.
final class PathDescriptor: Sendable {
    let number: Int32
    let kind: FileStatus.Kind
    let identity: String
    /// Whether this is a symbolic link itself.
    let isLink: Bool

    /// Takes over an open descriptor.
    init(owning number: Int32) throws(Errno) {
        var info = stat()
        let failed = fstat(number, &info) != 0
        let code = Errno(rawValue: errno)
        let status = failed ? nil : try? FileStatus(number)
        guard let status else {
            close(number)
            throw code
        }
        self.number = number
        kind = status.kind
        identity = status.identity
        isLink = info.st_mode & S_IFMT == S_IFLNK
    }

    /// Follows links.
    convenience init(path: String) throws(Errno) {
        try self.init(owning: Self.checked { open(path.hostPath, platter_path_flag() | O_CLOEXEC) })
    }

    /// The entry `name` of a folder; a link is not followed.
    convenience init(_ name: String, in folder: PathDescriptor) throws(Errno) {
        let flags = platter_path_flag() | O_CLOEXEC | O_NOFOLLOW
        try self.init(owning: Self.checked { openat(folder.number, name.hostPath, flags) })
    }

    deinit { close(number) }

    private static func checked(_ call: () -> Int32) throws(Errno) -> Int32 {
        while true {
            let result = call()
            if result >= 0 { return result }
            let code = Errno(rawValue: errno)
            if code != .interrupted { throw code }
        }
    }

    /// The target of a link.
    func linkText() throws(Errno) -> String {
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let count = readlinkat(number, "", &bytes, bytes.count - 1)
        if count < 0 { throw Errno(rawValue: errno) }
        return bytes.prefix(count).withUnsafeBytes { String(raw: $0) }
    }
}

/// Resolves names one component at a time, by descriptor, following links.
struct FolderWalk {
    /// The error of a look-up, and the folder in which it occurred.
    struct Failure: Error {
        var code: Errno
        var folder: PathDescriptor
    }

    private static let mostLinks = 40
    private let start: PathDescriptor

    init(from start: PathDescriptor) { self.start = start }

    /// The file that `name` leads to, with its folder.
    func find(_ name: String) throws(Failure) -> FoundFile {
        var folder = start
        var links = 0
        var rest = Self.components(name, &folder)
        while let component = rest.popLast() {
            let found = try Self.step(component, in: folder)
            if found.isLink {
                links += 1
                guard links <= Self.mostLinks else {
                    throw Failure(code: Errno(rawValue: ELOOP), folder: folder)
                }
                let before = folder
                let text = try Self.failing(in: before) { () throws(Errno) in try found.linkText() }
                rest += Self.components(text, &folder)
            } else if rest.isEmpty {
                return FoundFile(file: found, folder: folder, lastName: component)
            } else {
                folder = found
            }
        }
        return FoundFile(file: folder, folder: folder, lastName: ".")
    }

    /// The components of a path, last first. For an absolute path, `folder` becomes the root.
    private static func components(_ path: String, _ folder: inout PathDescriptor) -> [String] {
        if FileNames.isAbsolute(path), let root = try? PathDescriptor(path: "/") { folder = root }
        return FileNames.components(path).filter { $0 != "." }.reversed()
    }

    private static func step(_ name: String, in folder: PathDescriptor) throws(Failure) -> PathDescriptor {
        try failing(in: folder) { () throws(Errno) in try PathDescriptor(name, in: folder) }
    }

    private static func failing<Result>(
        in folder: PathDescriptor, _ body: () throws(Errno) -> Result
    ) throws(Failure) -> Result {
        do throws(Errno) { return try body() } catch { throw Failure(code: error, folder: folder) }
    }
}

/// The folders that belong to an image: that of its name, and that of the file behind a link.
struct ImageFolders {
    /// The most levels to climb: deeper than any folder of the system.
    private static let mostLevels = 4096

    /// The folder from which relative names count.
    let start: PathDescriptor
    /// The folders that belong to the image, as far as the image is still in them.
    let own: [PathDescriptor]

    /// - Parameter identity: the identity of the open image: a folder in which its name is that of another
    ///   file does not belong to it.
    init(of image: String, identity: String?) throws(Errno) {
        start = try PathDescriptor(path: Self.folder(of: image))
        var own: [PathDescriptor] = []
        if Self.isImage(image, identity) { own.append(start) }
        if let path = HostPath.canonical(image) {
            if let behind = try? PathDescriptor(path: Self.folder(of: path)), Self.isImage(path, identity),
                behind.identity != start.identity
            {
                own.append(behind)
            }
        }
        self.own = own
    }

    private static func folder(of path: String) -> String {
        let folder = FileNames.folder(of: path)
        return folder.isEmpty ? "." : folder
    }

    private static func isImage(_ path: String, _ identity: String?) -> Bool {
        guard let identity else { return true }
        return (try? PathDescriptor(path: path))?.identity == identity
    }

    func owns(_ folder: PathDescriptor) -> Bool { own.contains { $0.identity == folder.identity } }

    /// Whether `folder` is one of the folders, or inside one.
    func contain(_ folder: PathDescriptor) -> Bool {
        var here = folder
        for _ in 0..<Self.mostLevels {
            if owns(here) { return true }
            guard let above = try? PathDescriptor("..", in: here), above.identity != here.identity else {
                return false
            }
            here = above
        }
        return false
    }

    /// Splits an absolute name into one of the folders and the rest behind it; `nil` when it passes through
    /// none.
    func split(_ name: String) -> (folder: PathDescriptor?, rest: String) {
        let parts = FileNames.components(name)
        var prefix = ""
        for (index, part) in parts.enumerated().dropLast() {
            prefix += "/" + part
            guard let here = try? PathDescriptor(path: prefix) else { break }
            if let mine = own.first(where: { $0.identity == here.identity }) {
                return (mine, parts[(index + 1)...].joined(separator: "/"))
            }
        }
        return (nil, "")
    }
}
