import BlockCore

/// The parent locator: the names and the identity of a differencing image's parent ([MS-VHDX] 2.6.2.6). The
/// entries follow the header, then their texts in UTF-16.
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
        let type = Self.typeField.uuid(in: bytes)
        guard type == Vhdx.locatorType else {
            throw BlockError(
                .unsupported, "The VHDX image's parent is of an unknown kind (\(type.text))")
        }
        let count = Int(truncatingIfNeeded: Self.countField.number(in: bytes))
        guard count <= Vhdx.Limit.locatorEntries else {
            throw BlockError(.limit, "The VHDX parent locator has \(count) entries")
        }
        entries = []
        for index in 0..<count {
            let place = Self.entriesOffset + index * Self.entryBytes
            func number(_ field: HeaderField<Entry>) -> Int {
                Int(truncatingIfNeeded: field.number(in: bytes, from: place))
            }
            guard let key = Self.text(bytes, at: number(Entry.keyField), count: number(Entry.keyBytesField)),
                let value = Self.text(
                    bytes, at: number(Entry.valueField), count: number(Entry.valueBytesField))
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
        var result = fieldBytes(count: Self.entriesOffset + entries.count * Self.entryBytes)
        for (index, entry) in entries.enumerated() {
            let place = Self.entriesOffset + index * Self.entryBytes
            for (text, offsetField, bytesField) in [
                (entry.key, Entry.keyField, Entry.keyBytesField),
                (entry.value, Entry.valueField, Entry.valueBytesField),
            ] {
                let units = text.utf16.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
                offsetField.store(UInt64(result.count), in: &result, from: place)
                bytesField.store(UInt64(units.count), in: &result, from: place)
                result += units
            }
        }
        return result
    }
}

extension VhdxParentLocator: FieldedHeader {
    static let byteOrder = HeaderByteOrder.little

    private static let typeField = HeaderField<VhdxParentLocator>(
        "LocatorType", at: 0, width: 16, "GUID of the kind of parent: a VHDX file",
        bytes: { _ in Vhdx.locatorType.mixedEndian })
    private static let countField = HeaderField<VhdxParentLocator>(
        "KeyValueCount", at: 18, width: 2, "entries, of 12 bytes each", value: { UInt64($0.entries.count) })

    static let allFields = [typeField, HeaderField("Reserved", at: 16, width: 2, "0"), countField]

    /// An entry: a key and its value.
    enum Entry: FieldedHeader {
        static let byteOrder = HeaderByteOrder.little

        static let keyField = HeaderField<Self>(
            "KeyOffset", at: 0, width: 4, "offset of the key in the locator, in bytes")
        static let valueField = HeaderField<Self>("ValueOffset", at: 4, width: 4, "that of the value")
        static let keyBytesField = HeaderField<Self>("KeyLength", at: 8, width: 2, "bytes of the key")
        static let valueBytesField = HeaderField<Self>("ValueLength", at: 10, width: 2, "bytes of the value")

        static let allFields = [keyField, valueField, keyBytesField, valueBytesField]
    }
}
