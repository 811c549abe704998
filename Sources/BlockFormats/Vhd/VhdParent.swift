import BlockCore

/// The parent of a differencing disk, named by relative and absolute Windows paths and a URL.
struct VhdParent: Sendable, Equatable {
    var uuid: ImageUUID
    var time: UInt32
    /// The parent's path; a relative one starts at the image's folder.
    var path: String

    static let relativeWindows = "W2ru"
    static let absoluteWindows = "W2ku"
    static let url = "MacX"

    /// A UUID of zeroes stands for an unknown parent.
    static let unknown = ImageUUID(bytes: [])

    /// - Throws: `invalidArgument` for an invalid file path; `limit` for one that is too long.
    static func path(of reference: BackingReference) throws(BlockError) -> String {
        var path = reference.filename
        path = FileNames.withoutFileScheme(path)
        guard !path.hasPrefix("json:"), DriverRegistry.scheme(of: path) == nil, !path.isEmpty else {
            throw BlockError(.invalidArgument, "The parent of a VHD image must be a file")
        }
        guard
            reference.format == nil || reference.format == VhdDriver.name
                || VhdDriver.aliases.contains(reference.format ?? "")
        else {
            throw BlockError(
                .invalidArgument,
                "The parent of a VHD image must be a VHD image, not "
                    + "'\(reference.format ?? "")'")
        }
        guard path.rawBytes.count <= 1024 else { throw BlockError(.limit, "Backing file name too long") }
        return path
    }

    // MARK: Writing

    /// The spellings of the path, by platform. The absolute Windows spelling needs an absolute path.
    ///
    /// - Parameter image: the file name of the image itself.
    func spellings(from image: String) -> [(platform: String, bytes: [UInt8])] {
        let windows = path.replacing("/", by: "\\")
        if FileNames.isAbsolute(path) {
            return [(Self.absoluteWindows, utf16(windows)), (Self.url, Array("file://\(escaped)".utf8))]
        }
        var result = [(Self.relativeWindows, utf16(".\\" + windows))]
        let whole = FileNames.resolve(path, relativeTo: image)
        if FileNames.isAbsolute(whole) {
            result.append((Self.absoluteWindows, utf16(whole.replacing("/", by: "\\"))))
        }
        return result + [(Self.url, Array("file://./\(escaped)".utf8))]
    }

    private func utf16(_ text: String) -> [UInt8] {
        text.utf16.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    }

    private var escaped: String {
        let plain = Set("/-_.~".utf8)
        var text = ""
        for byte in path.rawBytes {
            let isLetter = (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x7A
            if isLetter || (byte >= 0x30 && byte <= 0x39) || plain.contains(byte) {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return text
    }

    // MARK: Reading

    /// The possible paths of the parent, in the order in which they are tried: relative ones, absolute ones,
    /// and the last components of the header's name and the paths beside the image, for an image that was
    /// moved with its parent.
    ///
    /// - Parameters:
    ///   - spellings: the stored spellings, by platform.
    ///   - name: the parent's own name in the header.
    static func paths(of spellings: [String: [UInt8]], name: String) -> [String] {
        let fromURL = spellings[url].flatMap(unescaped)
        let fromWindows = [relativeWindows, absoluteWindows].compactMap { spellings[$0] }.map(windowsPath)
        let stated = ([fromURL].compactMap { $0 } + fromWindows).filter { !$0.isEmpty }
        let relative = stated.filter { !FileNames.isAbsolute($0) && !hasDrive($0) }.map(local)
        let absolute = stated.filter { FileNames.isAbsolute($0) && !$0.hasPrefix("//") }
        let beside = ([name] + stated).map(FileNames.besideImage).filter { !$0.isEmpty && !hasDrive($0) }
        var paths: [String] = []
        for path in relative + absolute + beside where !paths.contains(where: path.isSameName) {
            paths.append(path)
        }
        return paths
    }

    /// A path that cannot be mistaken for a protocol's name, without a needless `./`.
    private static func local(_ path: String) -> String {
        var path = path
        while path.hasPrefix("./") { path.removeFirst(2) }
        return path.utf8.contains(UInt8(ascii: ":")) ? "./" + path : path
    }

    private static func hasDrive(_ path: String) -> Bool { path.utf8.dropFirst().first == UInt8(ascii: ":") }

    private static func windowsPath(_ bytes: [UInt8]) -> String {
        let units = stride(from: 0, to: bytes.count - 1, by: 2).map {
            UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8
        }
        return String(decoding: units.prefix { $0 != 0 }, as: UTF16.self).replacing("\\", by: "/")
    }

    /// The path of a `file:` URL.
    private static func unescaped(_ bytes: [UInt8]) -> String? {
        let prefix = Array("file://".utf8)
        guard bytes.starts(with: prefix) else { return nil }
        var rest = bytes.dropFirst(prefix.count).prefix { $0 != 0 }
        if rest.starts(with: Array("localhost/".utf8)) { rest = rest.dropFirst("localhost".utf8.count) }
        var result: [UInt8] = []
        while let byte = rest.popFirst() {
            let digits = String(decoding: rest.prefix(2), as: UTF8.self)
            if byte == 0x25, digits.utf8.count == 2, let value = UInt8(digits, radix: 16) {
                result.append(value)
                rest = rest.dropFirst(2)
            } else {
                result.append(byte)
            }
        }
        return String(raw: result)
    }
}

extension String {
    /// Works on scalars: a slash and a combining mark behind it are one character.
    func replacing(_ scalar: Unicode.Scalar, by other: Unicode.Scalar) -> String {
        var result = UnicodeScalarView()
        for own in unicodeScalars { result.append(own == scalar ? other : own) }
        return String(result)
    }
}
