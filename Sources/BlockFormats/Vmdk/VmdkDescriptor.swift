import BlockCore

/// A line of the descriptor that says where a part of the disk is.
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
    /// Where in a flat file the bytes begin, in sectors; as the line states it.
    var offset: Int?

    var text: String {
        var text = "\(isReadOnly ? "RDONLY" : "RW") \(sectors) \(kind.rawValue)"
        if kind != .zero { text += " \"\(filename)\"" }
        if let offset { text += " \(offset)" }
        return text
    }
}

/// The text that describes a disk: what it is made of, its content ID, its parent, its geometry.
///
/// Lines that mean nothing here are kept as they are.
struct VmdkDescriptor {
    private(set) var lines: [String]
    /// The parts of the disk, with the numbers of their lines.
    private(set) var extents: [(line: Int, extent: VmdkExtentLine)] = []

    /// Takes the text apart, up to the first zero byte.
    ///
    /// - Throws: `corrupt`; `unsupported` for extents that are devices, or not to be accessed; `limit`.
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

    /// Whether `bytes` look like a descriptor: its comment, or its version among the first lines.
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

    /// Gives `key` a value; a new line goes behind the line of `neighbour`. `nil` takes the line away.
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

    // By bytes: a mark behind a blank or a quote makes one character of both.
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

    /// The content ID, which changes with the contents; `nil` where the descriptor has none.
    var cid: UInt32? { value("CID").flatMap { UInt32($0, radix: 16) } }
    var parentCID: UInt32? { value("parentCID").flatMap { UInt32($0, radix: 16) } }
    /// `monolithicSparse`, `vmfs`, ...
    var createType: String { value("createType") ?? "" }
    /// The parent's file name, where the disk has one.
    var parentHint: String? {
        guard let hint = value("parentFileNameHint"), !hint.isEmpty else { return nil }
        return parentCID == Vmdk.noParent ? nil : hint
    }

    /// Where else the file of a name in this descriptor may be, when there is none of the name's own bytes:
    /// under the text that they are in the character set of the descriptor.
    func otherSpellings(of name: String) -> [String] {
        guard let page = value("encoding").flatMap(VmdkCodePage.init), let text = page.decode(name.rawBytes)
        else { return [] }
        return text.isSameName(as: name) ? [] : [text]
    }

    /// Where else the parent may be: beside the disk, as VMware looks for one that was moved with it.
    var otherParents: [String] {
        guard let hint = parentHint else { return [] }
        let names = [hint] + otherSpellings(of: hint)
        // Without a content ID nothing tells that a file is the parent.
        guard let cid = parentCID, cid != 0 else { return Array(names.dropFirst()) }
        return Array(names.dropFirst()) + names.map(FileNames.besideImage)
    }

    // MARK: The parent's next content ID

    private static let announcementKey = "#platter.nextParent="

    /// A comment by which the parent may have another content ID as well: it is about to change, in a way
    /// that leaves this disk as it is.
    static func announcement(of cid: UInt32) -> String { announcementKey + VmdkPlan.hex(cid) }

    static func isAnnouncement(_ line: String) -> Bool { line.hasPrefix(announcementKey) }

    /// What such a comment states; a line that is cut off states nothing.
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

    /// Says what the heads and tracks that the disk has make of another size.
    mutating func setGeometry(sectors: Int) {
        let key = "ddb.geometry.cylinders"
        guard value(key) != nil, let heads = value("ddb.geometry.heads").flatMap({ Int($0) }),
            let track = value("ddb.geometry.sectors").flatMap({ Int($0) }),
            (1...255).contains(heads), (1...63).contains(track)
        else { return }
        set(key, to: "\(key) = \"\(sectors / (heads * track))\"")
    }

    /// Whether somebody keeps book of changed blocks in another file, which we would not do.
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

    /// The text, with its data base in sectors of its own where it does not all fit into one: what may
    /// change then lies in the first sector, which is written as a whole or not at all.
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
        // Behind the names of others stand words that mean something to VMware alone.
        if let word = words(behind).first, kind == .flat || Int(word) != nil {
            guard let offset = Int(word), offset >= 0, offset <= Int.max >> 10 else {
                throw invalid(line, "Its offset is wrong.")
            }
            extent.offset = offset
        }
        return extent
    }

    /// In QEMU's words.
    private static func invalid(_ line: String, _ hint: String? = nil) -> BlockError {
        BlockError(.corrupt, "Invalid extent line: \(line)", hint: hint)
    }

    /// What stands before the name in quotes, the name, and what stands behind it. The name ends with a quote
    /// that has a blank or nothing behind it.
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
