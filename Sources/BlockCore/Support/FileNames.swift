/// Joining and naming, without looking at the disk.
public enum FileNames {
    /// `name` as an image in `image` means it: relative to that image's folder unless it is absolute, `json:`
    /// or has a scheme.
    public static func resolve(_ name: String, relativeTo image: String) -> String {
        if name.hasPrefix("/") || DriverRegistry.scheme(of: name) != nil { return name }
        if image.hasPrefix("json:") { return name }
        let base = path(of: image)
        guard let slash = base.lastIndex(of: "/") else { return name }
        return String(base[...slash]) + name
    }

    /// The path in an image's name: without `file:`, and without a filter in front as in
    /// `blkdebug:CONFIG:FILE`.
    private static func path(of image: String) -> Substring {
        var path = Substring(image)
        while let scheme = DriverRegistry.scheme(of: String(path)) {
            var rest = path.dropFirst(scheme.count + 1)
            if rest.hasPrefix("//") { break }
            if scheme != "file" && scheme != "host_device" {
                guard let colon = rest.firstIndex(of: ":") else { break }
                rest = rest[rest.index(after: colon)...]
            }
            path = rest
        }
        return path
    }

    /// The last component of a path.
    public static func lastComponent(_ path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }

    /// A name by which the image in `image` finds the file `name`, which is meant from the working folder.
    ///
    /// Names that are absolute or have a scheme, and names of which folders are unknown, stay as they are.
    public static func relative(_ name: String, from image: String) -> String {
        let path = String(path(of: image))
        if name.hasPrefix("/") || path.hasPrefix("/") || image.hasPrefix("json:") { return name }
        if DriverRegistry.scheme(of: name) != nil || DriverRegistry.scheme(of: path) != nil { return name }
        var folders = components(path).dropLast()
        var rest = components(name)[...]
        while let first = folders.first, first == rest.first, rest.count > 1 {
            folders.removeFirst()
            rest.removeFirst()
        }
        if folders.contains("..") { return name }
        return (folders.map { _ in ".." } + rest).joined(separator: "/")
    }

    private static func components(_ path: String) -> [String] {
        path.split(separator: "/").map(String.init).filter { $0 != "." }
    }
}
