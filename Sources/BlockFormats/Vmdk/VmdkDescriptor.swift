import BlockCore

/// A line of the descriptor that locates a part of the disk.
///
///     RW 4194304 SPARSE "disk-s001.vmdk"
///     RW 4194304 FLAT "disk-f001.vmdk" 0
///     RW 2048 ZERO
struct VmdkExtentLine: Equatable {
    enum Kind: String {
        case flat = "FLAT"
        case sparse = "SPARSE"
        case zero = "ZERO"
        case vmfs = "VMFS"
        case vmfsSparse = "VMFSSPARSE"
        case seSparse = "SESPARSE"

        var isFlat: Bool { self == .flat || self == .vmfs }
    }

    var isReadOnly = false
    var sectors: Int
    var kind: Kind
    /// Empty for ``Kind/zero``.
    var filename = ""
    /// The stated start of the bytes in a flat file, in sectors.
    var offset: Int?

    var text: String {
        var text = "\(isReadOnly ? "RDONLY" : "RW") \(sectors) \(kind.rawValue)"
        if kind != .zero { text += " \"\(filename)\"" }
        if let offset { text += " \(offset)" }
        return text
    }
}

/// The text that describes a disk: its extents, its content ID, its parent, its geometry.
///
/// Unknown lines stay unchanged.
struct VmdkDescriptor {
    private(set) var lines: [String]
    /// The extents of the disk, with the numbers of their lines.
    private(set) var extents: [(line: Int, extent: VmdkExtentLine)] = []

    /// Parses the text up to the first zero byte.
    ///
    /// - Throws: `corrupt`; `unsupported` for extents that are devices or have no access; `limit`.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> VmdkDescriptor {
        var descriptor = VmdkDescriptor(lines: splitLines(bytes))
        for (number, line) in descriptor.lines.enumerated() {
            guard let extent = try parseExtent(line) else { continue }
            guard descriptor.extents.count < Vmdk.Limit.extents else {
                throw BlockError(.limit, "The disk has more than \(Vmdk.Limit.extents) extents")
            }
            descriptor.extents.append((number, extent))
        }
        return descriptor
    }

    /// A new descriptor.
    init(lines: [String]) { self.lines = lines }

    /// Whether `bytes` look like a descriptor: its comment or its version is among the first lines.
    static func isDescriptor(_ bytes: RawSpan) -> Bool {
        for line in splitLines(bytes).prefix(100) {
            let text = withoutMark(line).lowercased()
            if text.hasPrefix(Vmdk.descriptorMagic) { return true }
            if text.isEmpty || text.hasPrefix("#") { continue }
            return text.filter { $0 != " " }.hasPrefix("version=")
        }
        return false
    }

    private static func splitLines(_ bytes: RawSpan) -> [String] {
        bytes.withUnsafeBytes { buffer in
            buffer.prefix { $0 != 0 }.split(separator: 10, omittingEmptySubsequences: false).map { line in
                let end = line.last == 13 ? line.dropLast() : line
                return String(raw: end)
            }
        }
    }

    // MARK: Values

    /// The value behind `key =`, without quotes.
    func value(_ key: String) -> String? {
        for line in lines {
            if let (name, value) = Self.assignment(line), name == key.lowercased() { return value }
        }
        return nil
    }

    /// Sets the value of `key`; a new line is inserted behind that of `neighbour`. `nil` removes the line.
    mutating func set(_ key: String, to text: String?, after neighbour: String = "createType") {
        let index = lines.firstIndex { Self.assignment($0)?.name == key.lowercased() }
        switch (index, text) {
        case (let index?, let text?): lines[index] = text
        case (let index?, nil): remove(line: index)
        case (nil, let text?):
            let place = lines.firstIndex { Self.assignment($0)?.name == neighbour.lowercased() }
            insert(text, at: place.map { $0 + 1 } ?? lines.count)
        case (nil, nil): break
        }
    }

    private static func assignment(_ line: String) -> (name: String, value: String)? {
        let line = withoutMark(line)
        guard let equals = line.utf8.firstIndex(of: UInt8(ascii: "=")), !line.hasPrefix("#") else {
            return nil
        }
        let name = Substring(trimmed(line.utf8[..<equals])).lowercased()
        var value = trimmed(line.utf8[line.utf8.index(after: equals)...])
        if value.count >= 2, value.first == quote, value.last == quote {
            value = value.dropFirst().dropLast()
        }
        return (name, String(Substring(value)))
    }

    private static let quote = UInt8(ascii: "\"")

    // Works on bytes: a blank or quote and a combining mark behind it are one character.
    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }

    private static func trimmed(_ text: Substring.UTF8View) -> Substring.UTF8View {
        var text = text.drop(while: isBlank)
        while let last = text.last, isBlank(last) { text.removeLast() }
        return text
    }

    private static func words(_ text: Substring) -> [Substring] {
        text.utf8.split(whereSeparator: isBlank).map { Substring($0) }
    }

    /// The line without the byte order mark that some editors put in front of the first one.
    private static func withoutMark(_ line: String) -> Substring {
        line.unicodeScalars.first == "\u{FEFF}" ? Substring(line.unicodeScalars.dropFirst()) : line[...]
    }

    /// The content ID, which changes with the contents; `nil` when the descriptor has none.
    var cid: UInt32? { value("CID").flatMap { UInt32($0, radix: 16) } }
    var parentCID: UInt32? { value("parentCID").flatMap { UInt32($0, radix: 16) } }
    /// `monolithicSparse`, `vmfs`, ...
    var createType: String { value("createType") ?? "" }
    /// The parent's file name; `nil` for a disk without a parent.
    var parentHint: String? {
        guard let hint = value("parentFileNameHint"), !hint.isEmpty else { return nil }
        return parentCID == Vmdk.noParent ? nil : hint
    }

    /// Other spellings of a file name in this descriptor, used when no file has the name's own bytes: its
    /// text in the descriptor's character set.
    func otherSpellings(of name: String) -> [String] {
        guard let page = value("encoding").flatMap(VmdkCodePage.init), let text = page.decode(name.rawBytes)
        else { return [] }
        return text.isSameName(as: name) ? [] : [text]
    }

    /// Other places of the parent: beside the disk, where VMware looks for a parent that was moved with it.
    var otherParents: [String] {
        guard let hint = parentHint else { return [] }
        let names = [hint] + otherSpellings(of: hint)
        // Without a content ID, a file under another name cannot be verified to be the parent.
        guard let cid = parentCID, cid != 0 else { return Array(names.dropFirst()) }
        return Array(names.dropFirst()) + names.map(FileNames.besideImage)
    }

    // MARK: The parent's next content ID

    private static let announcementKey = "#platter.nextParent="

    /// A comment that announces a second valid content ID of the parent: the parent is about to change in a
    /// way that does not affect this disk.
    static func announcement(of cid: UInt32) -> String { announcementKey + VmdkPlan.hex(cid) }

    static func isAnnouncement(_ line: String) -> Bool { line.hasPrefix(announcementKey) }

    /// The content ID in such a comment; an incomplete line has none.
    var announcedParentCID: UInt32? {
        for line in lines where Self.isAnnouncement(line) {
            let digits = line.dropFirst(Self.announcementKey.count)
            if digits.utf8.count == 8, let cid = UInt32(digits, radix: 16) { return cid }
        }
        return nil
    }

    mutating func removeAnnouncements() {
        while let index = lines.firstIndex(where: Self.isAnnouncement) { remove(line: index) }
    }

    /// Sets the cylinders for another size, with the disk's heads and sectors per track.
    mutating func setGeometry(sectors: Int) {
        let key = "ddb.geometry.cylinders"
        guard value(key) != nil, let heads = value("ddb.geometry.heads").flatMap({ Int($0) }),
            let track = value("ddb.geometry.sectors").flatMap({ Int($0) }),
            (1...255).contains(heads), (1...63).contains(track)
        else { return }
        set(key, to: "\(key) = \"\(sectors / (heads * track))\"")
    }

    /// Whether another program tracks changed blocks in a file that Platter would not update.
    var tracksChanges: Bool { value("changeTrackPath")?.isEmpty == false }

    // MARK: Lines

    mutating func setExtent(_ index: Int, _ extent: VmdkExtentLine) {
        extents[index].extent = extent
        lines[extents[index].line] = extent.text
    }

    mutating func appendExtent(_ extent: VmdkExtentLine) {
        let line = extents.last.map { $0.line + 1 } ?? lines.count
        insert(extent.text, at: line)
        extents.append((line, extent))
    }

    mutating func removeLastExtent() {
        guard let last = extents.popLast() else { return }
        remove(line: last.line)
    }

    private mutating func insert(_ text: String, at line: Int) {
        lines.insert(text, at: line)
        for index in extents.indices where extents[index].line >= line { extents[index].line += 1 }
    }

    private mutating func remove(line: Int) {
        lines.remove(at: line)
        for index in extents.indices where extents[index].line > line { extents[index].line -= 1 }
    }

    /// The bytes of the text. If it needs more than one sector, its data base starts a new sector: the fields
    /// that may change are then in the first sector, which is written atomically.
    var text: [UInt8] {
        let whole = lines.joined(separator: "\n").rawBytes
        guard whole.count > Vmdk.sectorBytes,
            let split = lines.firstIndex(where: { $0.hasPrefix("# The Disk Data Base") })
        else { return whole }
        var head = lines[..<split]
        while head.last?.isEmpty == true { head.removeLast() }
        var bytes = head.joined(separator: "\n").rawBytes + [10]
        let room = (bytes.count + Vmdk.sectorBytes - 1).roundedDown(to: Vmdk.sectorBytes)
        bytes += [UInt8](repeating: 10, count: room - bytes.count)
        return bytes + lines[split...].joined(separator: "\n").rawBytes
    }

    // MARK: Extents

    private static func parseExtent(_ line: String) throws(BlockError) -> VmdkExtentLine? {
        let (front, name, behind) = split(line)
        let head = words(front)
        guard let access = head.first, ["RW", "RDONLY", "NOACCESS"].contains(access) else { return nil }
        guard head.count >= 3, let sectors = Int(head[1]), sectors >= 0, sectors <= Int.max >> 10 else {
            throw invalid(line)
        }
        guard access != "NOACCESS", let kind = VmdkExtentLine.Kind(rawValue: String(head[2])) else {
            var error = invalid(line, "Extents of the kind '\(access) \(head[2])' are not supported.")
            error.kind = .unsupported
            throw error
        }
        var extent = VmdkExtentLine(isReadOnly: access == "RDONLY", sectors: sectors, kind: kind)
        if kind == .zero { return extent }
        guard let name, !name.isEmpty else {
            throw invalid(line, "It names no file.")
        }
        extent.filename = String(name)
        // The words behind the names of other extents are private to VMware.
        if let word = words(behind).first, kind == .flat || Int(word) != nil {
            guard let offset = Int(word), offset >= 0, offset <= Int.max >> 10 else {
                throw invalid(line, "Its offset is wrong.")
            }
            extent.offset = offset
        }
        return extent
    }

    /// The error for an invalid line, in QEMU's words.
    private static func invalid(_ line: String, _ hint: String? = nil) -> BlockError {
        BlockError(.corrupt, "Invalid extent line: \(line)", hint: hint)
    }

    /// Splits a line into the text before the quoted name, the name, and the text behind it. The name ends
    /// with a quote that is followed by a blank or the end of the line.
    private static func split(_ line: String) -> (front: Substring, name: Substring?, behind: Substring) {
        let bytes = line.utf8
        guard let open = bytes.firstIndex(of: quote) else { return (withoutMark(line), nil, "") }
        var rest = bytes[bytes.index(after: open)...]
        let start = rest.startIndex
        while let end = rest.firstIndex(of: quote) {
            rest = rest[rest.index(after: end)...]
            if rest.first.map(isBlank) ?? true {
                return (line[..<open], line[start..<end], Substring(rest))
            }
        }
        return (line[..<open], nil, "")
    }
}
