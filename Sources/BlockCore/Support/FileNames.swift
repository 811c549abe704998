/// Joining and naming, without looking at the disk. By bytes: to the system a slash is a slash, also with a
/// mark behind it, which for Swift makes one character of both.
public enum FileNames {
    private static let slash = UInt8(ascii: "/")

    /// `name` as an image in `image` means it: relative to that image's folder unless it is absolute, `json:`
    /// or has a scheme.
    public static func resolve(_ name: String, relativeTo image: String) -> String {
        if isAbsolute(name) || DriverRegistry.scheme(of: name) != nil { return name }
        if image.hasPrefix("json:") { return name }
        return folder(of: path(of: image)) + name
    }

    /// Whether the path begins at the root.
    public static func isAbsolute(_ path: String) -> Bool { path.utf8.first == slash }

    /// The path in `file:PATH`; other names as they are.
    public static func withoutFileScheme(_ name: String) -> String {
        DriverRegistry.scheme(of: name) == "file" ? String(Substring(name.utf8.dropFirst(5))) : name
    }

    /// The path in an image's name: without `file:`, and without a filter in front as in
    /// `blkdebug:CONFIG:FILE`.
    private static func path(of image: String) -> String {
        let colon = UInt8(ascii: ":")
        var path = image
        while let scheme = DriverRegistry.scheme(of: path) {
            var rest = path.utf8.dropFirst(scheme.utf8.count + 1)
            if rest.starts(with: [slash, slash]) { break }
            if scheme != "file" && scheme != "host_device" {
                guard let end = rest.firstIndex(of: colon) else { break }
                rest = rest[end...].dropFirst()
            }
            path = String(Substring(rest))
        }
        return path
    }

    /// The last component of a path.
    public static func lastComponent(_ path: String) -> String {
        guard let last = path.utf8.lastIndex(of: slash) else { return path }
        return String(path[path.utf8.index(after: last)...])
    }

    /// The path up to its last slash; empty without one.
    public static func folder(of path: String) -> String {
        path.utf8.lastIndex(of: slash).map { String(path[..<path.utf8.index(after: $0)]) } ?? ""
    }

    /// The file in the image's own folder that has the last component of `path`, which may be one of Windows.
    /// It is a file's name, whatever it looks like.
    public static func besideImage(_ path: String) -> String {
        let name = lastComponent(String(raw: path.rawBytes.map { $0 == UInt8(ascii: "\\") ? slash : $0 }))
        return DriverRegistry.scheme(of: name) == nil ? name : "./" + name
    }

    /// What stands between slashes, without what is empty.
    public static func components(_ path: String) -> [String] {
        path.utf8.split(separator: slash).map { String(Substring($0)) }
    }

    /// A name by which the image in `image` finds the file `name`, which is meant from the working folder.
    ///
    /// Names that are absolute or have a scheme, and names of which folders are unknown, stay as they are.
    public static func relative(_ name: String, from image: String) -> String {
        let path = path(of: image)
        if isAbsolute(name) || isAbsolute(path) || image.hasPrefix("json:") { return name }
        if DriverRegistry.scheme(of: name) != nil || DriverRegistry.scheme(of: path) != nil { return name }
        var folders = plainComponents(path).dropLast()
        var rest = plainComponents(name)[...]
        while let first = folders.first, let own = rest.first, first.isSameName(as: own), rest.count > 1 {
            folders.removeFirst()
            rest.removeFirst()
        }
        if folders.contains("..") { return name }
        return (folders.map { _ in ".." } + rest).joined(separator: "/")
    }

    private static func plainComponents(_ path: String) -> [String] { components(path).filter { $0 != "." } }
}
