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

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// The name behind symbolic links that lead nowhere; other names as they are.
    static func followingLinks(_ path: String) -> String {
        var path = path
        for _ in 0..<maximumLinks {
            var target = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
            let count = readlink(path, &target, target.count - 1)
            guard count > 0 else { return path }
            let bytes = target[..<count].map { UInt8(bitPattern: $0) }
            guard let next = String(validating: bytes, as: UTF8.self) else { return path }
            path = next.hasPrefix("/") ? next : folder(of: path) + next
        }
        return path
    }

    /// A name that nobody has, in the same folder, which tells whose it is and that it is not whole.
    static func temporaryName(beside path: String) -> String {
        let folder = folder(of: path)
        let own = path.utf8.dropFirst(folder.utf8.count).prefix(ownNameBytes)
        let mark = String(UInt64.random(in: 0...UInt64.max), radix: 36)
        return folder + String(decoding: own, as: UTF8.self) + ".\(mark).platter-partial"
    }

    /// Removes the name of a regular file, if it is still that of the file with this identity.
    static func remove(_ path: String, identity: String) {
        guard FileStatus.identity(ofName: path) == identity else { return }
        unlink(path)
    }

    /// Up to the last slash; empty without one.
    private static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "" }
        return String(path[...slash])
    }
}
