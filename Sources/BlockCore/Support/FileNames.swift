/// Joins and splits file names, without looking at the disk.
///
/// Works on bytes: a slash with a combining mark behind it is a slash to the system, but one `Character` with
/// the mark to Swift.
public enum FileNames {
    private static let slash = UInt8(ascii: "/")

    /// `name`, stated in the image `image`, relative to the working folder: joined with the image's folder
    /// unless it is absolute or has a scheme, such as `json:`.
    public static func resolve(_ name: String, relativeTo image: String) -> String {
        if isAbsolute(name) || DriverRegistry.scheme(of: name) != nil { return name }
        if image.hasPrefix("json:") { return name }
        return folder(of: path(of: image)) + name
    }

    /// Whether the path begins with a slash.
    public static func isAbsolute(_ path: String) -> Bool { path.utf8.first == slash }

    /// The path in `file:PATH`; other names unchanged.
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
            if scheme != "file" && scheme != "host_device" && scheme != "host_cdrom" {
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

    /// The name of the file in the image's own folder with the last component of `path`, which may be a
    /// Windows path.
    ///
    /// It always means a file, never a scheme.
    public static func besideImage(_ path: String) -> String {
        let name = lastComponent(String(raw: path.rawBytes.map { $0 == UInt8(ascii: "\\") ? slash : $0 }))
        return DriverRegistry.scheme(of: name) == nil ? name : "./" + name
    }

    /// The parts between slashes that are not empty.
    public static func components(_ path: String) -> [String] {
        path.utf8.split(separator: slash).map { String(Substring($0)) }
    }

    /// The name to state in the image `image` for the file `name`; both count from the working folder.
    ///
    /// Names that are absolute or have a scheme are unchanged, and so are all names if the image's folder
    /// cannot be expressed.
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
