import BlockCore
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// What making files does with names.
enum HostPath {
    /// As many links in a row the kernel follows.
    private static let maximumLinks = 40
    /// File names have at most 255 bytes; of the image's own this many are in that of its temporary file.
    private static let ownNameBytes = 200

    static func exists(_ path: String) -> Bool { access(path.hostPath, F_OK) == 0 }

    /// The name behind symbolic links that lead nowhere; other names as they are.
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

    /// A name that nobody has, in the same folder, which tells whose it is and that it is not whole.
    static func temporaryName(beside path: String) -> String {
        let own = FileNames.lastComponent(path).rawBytes.prefix(ownNameBytes)
        let mark = String(UInt64.random(in: 0...UInt64.max), radix: 36)
        return FileNames.folder(of: path) + String(raw: own) + ".\(mark).platter-partial"
    }

    /// Removes the name of a regular file, if it is still that of the file with this identity.
    static func remove(_ path: String, identity: String) {
        guard FileStatus.identity(ofName: path) == identity else { return }
        unlink(path.hostPath)
    }
}
