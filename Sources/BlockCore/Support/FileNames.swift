/// Joining and naming, without looking at the disk.
public enum FileNames {
    /// `name` as an image in `image` means it: relative to that image's folder unless it is absolute, `json:`
    /// or has a scheme.
    public static func resolve(_ name: String, relativeTo image: String) -> String {
        if name.hasPrefix("/") || DriverRegistry.scheme(of: name) != nil { return name }
        var base = Substring(image)
        if image.hasPrefix("json:") { return name }
        if DriverRegistry.scheme(of: image) == "file" { base = image.dropFirst(5) }
        guard let slash = base.lastIndex(of: "/") else { return name }
        return String(base[...slash]) + name
    }

    /// The last component of a path.
    public static func lastComponent(_ path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }

    /// A name by which the image in `image` finds the file `name`, which is meant from the working folder.
    ///
    /// Names that are absolute or have a scheme, and names of which folders are unknown, stay as they are.
    public static func relative(_ name: String, from image: String) -> String {
        let path = DriverRegistry.scheme(of: image) == "file" ? String(image.dropFirst(5)) : image
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
