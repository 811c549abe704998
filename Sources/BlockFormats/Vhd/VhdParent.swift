import BlockCore

/// How a differencing disk names its parent: paths for Windows, relative and absolute, and a URL.
struct VhdParent: Sendable, Equatable {
    var uuid: ImageUUID
    var time: UInt32
    /// The parent's path; a relative one counts from the image's folder.
    var path: String

    static let relativeWindows = "W2ru"
    static let absoluteWindows = "W2ku"
    static let url = "MacX"

    /// An UUID of zeroes says nothing of the parent.
    static let unknown = ImageUUID(bytes: [])

    /// - Throws: `invalidArgument` for what cannot be a file's path; `limit`.
    static func path(of reference: BackingReference) throws(BlockError) -> String {
        var path = reference.filename
        if path.hasPrefix("file:") { path.removeFirst("file:".count) }
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
        guard path.utf8.count <= 1024 else { throw BlockError(.limit, "Backing file name too long") }
        return path
    }

    // MARK: Writing

    /// The spellings of the path, by platform. Windows' absolute one needs an absolute path.
    ///
    /// - Parameter image: the file name of the image itself.
    func spellings(from image: String) -> [(platform: String, bytes: [UInt8])] {
        let windows = path.replacingSlashes(by: "\\")
        if path.hasPrefix("/") {
            return [(Self.absoluteWindows, utf16(windows)), (Self.url, Array("file://\(escaped)".utf8))]
        }
        var result = [(Self.relativeWindows, utf16(".\\" + windows))]
        let whole = FileNames.resolve(path, relativeTo: image)
        if whole.hasPrefix("/") {
            result.append((Self.absoluteWindows, utf16(whole.replacingSlashes(by: "\\"))))
        }
        return result + [(Self.url, Array("file://./\(escaped)".utf8))]
    }

    private func utf16(_ text: String) -> [UInt8] {
        text.utf16.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    }

    private var escaped: String {
        let plain = Set("/-_.~".utf8)
        var text = ""
        for byte in path.utf8 {
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

    /// The path that the spellings of an image name, relative ones first; `nil` where they name none.
    ///
    /// - Parameters:
    ///   - spellings: by platform.
    ///   - name: the parent's own name in the header, taken where no path can be one of this system.
    static func path(of spellings: [String: [UInt8]], name: String) -> String? {
        let fromURL = spellings[url].flatMap(unescaped)
        let fromWindows = [relativeWindows, absoluteWindows].compactMap { spellings[$0] }.map(windowsPath)
        let paths = [fromURL].compactMap { $0 } + fromWindows
        if let relative = paths.first(where: { !$0.hasPrefix("/") && !hasDrive($0) && !$0.isEmpty }) {
            return local(relative)
        }
        if let absolute = paths.first(where: { $0.hasPrefix("/") && !$0.hasPrefix("//") }) { return absolute }
        let own = FileNames.lastComponent(name.replacingBackslashes())
        if !own.isEmpty { return local(own) }
        return paths.map(FileNames.lastComponent).first { !$0.isEmpty && !hasDrive($0) }.map(local)
    }

    /// A path that nobody takes for a protocol's name, without `./` where it can be.
    private static func local(_ path: String) -> String {
        var path = path
        while path.hasPrefix("./") { path.removeFirst(2) }
        return path.contains(":") ? "./" + path : path
    }

    private static func hasDrive(_ path: String) -> Bool { path.dropFirst().first == ":" }

    private static func windowsPath(_ bytes: [UInt8]) -> String {
        let units = stride(from: 0, to: bytes.count - 1, by: 2).map {
            UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8
        }
        return String(decoding: units.prefix { $0 != 0 }, as: UTF16.self).replacingBackslashes()
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
        return String(decoding: result, as: UTF8.self)
    }
}

extension String {
    fileprivate func replacingSlashes(by other: Character) -> String {
        String(map { $0 == "/" ? other : $0 })
    }
    fileprivate func replacingBackslashes() -> String { String(map { $0 == "\\" ? "/" : $0 }) }
}
