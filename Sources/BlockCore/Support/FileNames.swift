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
}
