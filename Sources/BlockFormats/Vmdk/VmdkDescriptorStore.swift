import BlockCore

/// The descriptor and its place: in a file of its own or inside a sparse extent.
struct VmdkDescriptorStore {
    let file: BlockNode
    /// The offset of the text in bytes. ``room`` is its space inside an extent in bytes, `nil` in a file of
    /// its own.
    let offset: Int
    let room: Int?
    private(set) var descriptor: VmdkDescriptor
    /// The bytes of the file in which a descriptor must be recognised.
    private static let headBytes = 1 << 16
    /// The text in the file.
    private var bytes: [UInt8]
    /// Whether a failed write may have left a part of another text in the file.
    private var isUncertain = false

    /// Reads the descriptor; `nil` when there is none.
    ///
    /// - Throws: `limit`, `corrupt`, `unsupported`, `io`.
    init?(file: BlockNode, offset: Int, room: Int?) throws(BlockError) {
        self.file = file
        self.offset = offset
        self.room = room
        let available = max(0, try file.length() - offset)
        let count = min(available, room ?? available)
        let head = try file.readBytes(at: offset, count: min(count, Self.headBytes))
        guard VmdkDescriptor.isDescriptor(head.span.bytes) else { return nil }
        guard count <= Vmdk.Limit.descriptorBytes else {
            throw BlockError(
                .limit, "The descriptor is larger than \(Vmdk.Limit.descriptorBytes) bytes",
                path: file.filename)
        }
        let text = try file.readBytes(at: offset, count: count)
        descriptor = try VmdkDescriptor.parse(text.span.bytes)
        bytes = Array(text.prefix { $0 != 0 })
    }

    // MARK: Identities

    /// A content ID other than the present one, with as many digits; `nil` for a disk that has none.
    ///
    /// - Parameter next: proposes the ID that follows another one.
    func newCID(_ next: (UInt32) -> UInt32) -> UInt32? {
        guard let old = descriptor.cid else { return nil }
        let width = digits(of: "CID").map { min($0.count, 8) } ?? 8
        let bits: UInt32 = width == 8 ? .max : (1 << (4 * UInt32(width))) &- 1
        let new = next(old) & bits
        return new == old || new == 0 || new >= Vmdk.noParent - 1 ? (old ^ 1) & bits : new
    }

    /// Changes `CID` or `parentCID`, which must exist. The digits are replaced in place if the number of
    /// digits allows it, so that one sector is written. Durable on return.
    mutating func change(_ key: String, to value: UInt32) throws(BlockError) {
        let place = digits(of: key)
        let short = String(value, radix: 16)
        let digits = String(repeating: "0", count: max(0, min(place?.count ?? 8, 8) - short.count)) + short
        guard let place, place.count == digits.utf8.count else {
            var changed = descriptor
            changed.set(key, to: "\(key)=" + digits)
            return try replace(with: changed)
        }
        var changed = bytes
        changed.replaceSubrange(place, with: Array(digits.utf8))
        let end = (place.upperBound + Vmdk.sectorBytes - 1).roundedDown(to: Vmdk.sectorBytes)
        let sectors = place.lowerBound.roundedDown(to: Vmdk.sectorBytes)..<min(changed.count, end)
        try file.write(changed.span.bytes.extracting(sectors), at: offset + sectors.lowerBound)
        try file.flush()
        bytes = changed
        descriptor.set(key, to: "\(key)=" + digits)
    }

    /// Appends an announcement of a second valid content ID of the parent to the text. Durable on return.
    /// After a crash in between, the incomplete line is an ordinary comment.
    ///
    /// - Throws: `limit` when there is no room for it; `io`, `noSpace`.
    mutating func announceParent(_ value: UInt32) throws(BlockError) {
        try withdrawAnnouncement()
        let line = VmdkDescriptor.announcement(of: value)
        let isOpen = bytes.last.map { $0 != 10 } ?? false
        let addition = (isOpen ? [10] : []) + Array(line.utf8) + [10]
        let end = bytes.count + addition.count
        guard end <= min(room ?? .max, Vmdk.Limit.descriptorBytes) else {
            throw BlockError(.limit, "The descriptor does not fit into the image", path: file.filename)
        }
        try file.write(addition.span.bytes, at: offset + bytes.count)
        try file.flush()
        bytes += addition
        descriptor = try VmdkDescriptor.parse(bytes.span.bytes)
    }

    /// Removes the line of ``announceParent(_:)``: it is blanked, or cut off at the end of the text.
    mutating func withdrawAnnouncement() throws(BlockError) {
        while let line = line(VmdkDescriptor.isAnnouncement) {
            let isLast = line.upperBound + 1 >= bytes.count
            if isLast && room == nil {
                try file.resize(to: offset + line.lowerBound)
            } else {
                let place = isLast ? line.lowerBound..<bytes.count : line
                let blank = [UInt8](repeating: isLast ? 0 : 10, count: place.count)
                try file.write(blank.span.bytes, at: offset + place.lowerBound)
            }
            if isLast {
                bytes.removeSubrange(line.lowerBound...)
            } else {
                bytes.replaceSubrange(line, with: [UInt8](repeating: 10, count: line.count))
            }
            descriptor = try VmdkDescriptor.parse(bytes.span.bytes)
        }
        try file.flush()
    }

    /// The range of the first line that `isWanted`, without its line feed.
    private func line(_ isWanted: (String) -> Bool) -> Range<Int>? {
        var start = 0
        while start < bytes.count {
            let end = bytes[start...].firstIndex(of: 10) ?? bytes.count
            if isWanted(String(raw: bytes[start..<end])) { return start..<end }
            start = end + 1
        }
        return nil
    }

    /// The range of the digits behind `key` and an equals sign at the start of a line.
    private func digits(of key: String) -> Range<Int>? {
        let key = Array((key + "=").utf8)
        var start = 0
        while start < bytes.count {
            let end = bytes[start...].firstIndex(of: 10) ?? bytes.count
            if bytes[start..<end].starts(with: key) {
                let digits = bytes[(start + key.count)..<end].prefix {
                    Character(Unicode.Scalar($0)).isHexDigit
                }
                return digits.isEmpty ? nil : digits.startIndex..<digits.endIndex
            }
            start = end + 1
        }
        return nil
    }

    /// Replaces the text. Durable on return.
    ///
    /// The order of writes, if more than one sector changes:
    ///
    /// 1. the sectors behind the first; a flush;
    /// 2. the first sector, which holds the important fields, atomically.
    ///
    /// If the lines before the data base need more than one sector, they are one write: a killed process does
    /// not split it, a power failure may.
    ///
    /// - Throws: `limit` for a text that is too long; `io`, `noSpace`.
    mutating func replace(with changed: VmdkDescriptor) throws(BlockError) {
        let text = changed.text
        guard text.count <= min(room ?? .max, Vmdk.Limit.descriptorBytes) else {
            throw BlockError(.limit, "The descriptor does not fit into the image", path: file.filename)
        }
        // The rest of a longer old text is overwritten, with zeroes inside an extent and with line feeds in a
        // file of its own.
        let filler: UInt8 = room == nil ? 10 : 0
        var whole = text + [UInt8](repeating: filler, count: max(0, bytes.count - text.count))
        if room != nil, let padded = whole.count.roundedUp(to: Vmdk.sectorBytes) {
            whole += [UInt8](repeating: 0, count: padded - whole.count)
        }
        let old = isUncertain ? [] : bytes
        isUncertain = true
        // After a failure the length of the text in the file is unknown.
        bytes += [UInt8](repeating: filler, count: max(0, whole.count - bytes.count))
        for part in Self.parts(from: old, to: whole, filler) {
            try file.write(whole.span.bytes.extracting(part), at: offset + part.lowerBound)
            try file.flush()
        }
        if room == nil, try file.length() > offset + text.count {
            try file.resize(to: offset + text.count)
        }
        bytes = text
        descriptor = changed
        isUncertain = false
    }

    /// The parts of a new text, in the order in which they are written.
    private static func parts(from old: [UInt8], to new: [UInt8], _ filler: UInt8) -> [Range<Int>] {
        let sectors = stride(from: 0, to: new.count, by: Vmdk.sectorBytes).map { start in
            start..<min(start + Vmdk.sectorBytes, new.count)
        }
        // A file of its own grows with the write.
        let changed = sectors.filter { sector in
            sector.upperBound > old.count || old[sector] != new[sector]
        }
        if changed.count <= 1 { return changed }
        guard headEnd(old) <= Vmdk.sectorBytes, headEnd(new) <= Vmdk.sectorBytes else {
            return [changed[0].lowerBound..<changed[changed.count - 1].upperBound]
        }
        return [Vmdk.sectorBytes..<new.count, 0..<min(Vmdk.sectorBytes, new.count)]
    }

    /// The end of the last line before the data base, which no reader depends on.
    private static func headEnd(_ text: [UInt8]) -> Int {
        var (start, end) = (0, 0)
        while start < text.count {
            let stop = text[start...].firstIndex(of: 10) ?? text.count
            let line = text[start..<stop]
            if line.starts(with: "# The Disk Data Base".utf8) || line.starts(with: "ddb.".utf8) { break }
            if line.contains(where: { $0 != 0 && $0 != 0x20 && $0 != 0x0D }) { end = stop }
            start = stop + 1
        }
        return end
    }
}
