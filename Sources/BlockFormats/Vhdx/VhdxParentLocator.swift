import BlockCore

/// The parent locator: the names and the identity of a differencing image's parent ([MS-VHDX] 2.6.2.6).
///
/// ```
/// 00 GUID of the type   12 number of entries
/// 14 entries: 00 offset of the key  04 offset of the value  08 length of the key  0A length of the value
/// ```
struct VhdxParentLocator: Sendable, Equatable {
    private static let entriesOffset = 20
    private static let entryBytes = 12

    /// Keys and values in the order of the entries.
    var entries: [(key: String, value: String)]

    static func == (left: VhdxParentLocator, right: VhdxParentLocator) -> Bool {
        left.entries.elementsEqual(right.entries) { $0 == $1 }
    }

    init(entries: [(key: String, value: String)]) { self.entries = entries }

    /// - Throws: `corrupt`, `limit`; `unsupported` for another type of locator.
    init(parsing bytes: RawSpan) throws(BlockError) {
        guard bytes.guid(at: 0) == Vhdx.locatorType else {
            throw BlockError(
                .unsupported, "The VHDX image's parent is of an unknown kind (\(bytes.guid(at: 0).text))")
        }
        let count: UInt16 = bytes.littleEndian(at: 18) ?? 0
        guard Int(count) <= Vhdx.Limit.locatorEntries else {
            throw BlockError(.limit, "The VHDX parent locator has \(count) entries")
        }
        entries = []
        for index in 0..<Int(count) {
            let place = Self.entriesOffset + index * Self.entryBytes
            let lengths = bytes.number32(place + 8)
            guard let key = Self.text(bytes, at: bytes.number32(place), count: lengths & 0xFFFF),
                let value = Self.text(bytes, at: bytes.number32(place + 4), count: lengths >> 16)
            else { throw BlockError(.corrupt, "The VHDX parent locator is damaged") }
            entries.append((key, value))
        }
    }

    private static func text(_ bytes: RawSpan, at offset: Int, count: Int) -> String? {
        guard let part = bytes.part(offset..<offset + count), count % 2 == 0 else { return nil }
        let units = (0..<count / 2).map { index -> UInt16 in part.littleEndian(at: index * 2) ?? 0 }
        return String(decoding: units, as: UTF16.self)
    }

    /// The value of a key; keys are case-sensitive.
    subscript(key: String) -> String? { entries.first { $0.key == key }?.value }

    /// The valid data write GUIDs of the parent. The second one is valid while a merge is under way.
    var linkages: [ImageUUID] {
        get { Self.linkageKeys.compactMap { self[$0] }.compactMap { ImageUUID(guidText: $0) } }
        set {
            entries.removeAll { Self.linkageKeys.contains($0.key) }
            let linkages = zip(Self.linkageKeys, newValue).map { (key: $0, value: $1.guidText) }
            entries.insert(contentsOf: linkages, at: 0)
        }
    }
    private static let linkageKeys = ["parent_linkage", "parent_linkage2"]

    /// Names of the parent relative to the image's folder, in the order in which they are tried: the relative
    /// path, then the last components of all paths, for an image that was moved with its parent.
    var filenames: [String] {
        let paths = ["relative_path", "volume_path", "absolute_win32_path"].compactMap { self[$0] }
        let relative = self["relative_path"].map(Self.hostPath)
        let names = [relative].compactMap { $0 } + paths.map(FileNames.besideImage)
        var filenames: [String] = []
        for name in names where !name.isEmpty && !filenames.contains(where: name.isSameName) {
            filenames.append(name)
        }
        return filenames
    }

    /// A relative Windows path in the host's spelling. It is always a file name, also if it looks like a URL.
    private static func hostPath(_ path: String) -> String {
        var name = path.replacing("\\", by: "/")
        while name.hasPrefix("./") { name.removeFirst(2) }
        return name.utf8.contains(UInt8(ascii: ":")) ? "./" + name : name
    }

    /// A locator for a parent with that data write GUID; `filename` is relative to the image's folder.
    ///
    /// - Throws: `limit` for a name that is too long.
    static func make(linkage: ImageUUID, filename: String) throws(BlockError) -> VhdxParentLocator {
        let path = filename.replacing("/", by: "\\")
        guard path.utf16.count <= Vhdx.Limit.parentNameUnits else {
            throw BlockError(.limit, "The parent's name is too long for a VHDX image")
        }
        return VhdxParentLocator(entries: [
            ("parent_linkage", linkage.guidText),
            ("relative_path", FileNames.isAbsolute(filename) ? path : ".\\" + path),
        ])
    }

    func serialised() -> [UInt8] {
        let texts = entries.flatMap { [Array($0.key.utf16), Array($0.value.utf16)] }
        let textOffset = Self.entriesOffset + entries.count * Self.entryBytes
        let total = texts.reduce(textOffset) { $0 + $1.count * 2 }
        var result = [UInt8](repeating: 0, count: total)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        span.store(Vhdx.locatorType, at: 0)
        span.storeLittleEndian(UInt16(entries.count), at: 18)
        var next = textOffset
        for (index, text) in texts.enumerated() {
            let place = Self.entriesOffset + index / 2 * Self.entryBytes
            span.storeLittleEndian(UInt32(next), at: place + index % 2 * 4)
            span.storeLittleEndian(UInt16(text.count * 2), at: place + 8 + index % 2 * 2)
            for unit in text {
                span.storeLittleEndian(unit, at: next)
                next += 2
            }
        }
        return result
    }
}
