import BlockCore

/// The descriptor and where it is kept: in a file of its own or inside a sparse extent.
struct VmdkDescriptorStore {
    let file: BlockNode
    /// Where its text begins, and how much room there is inside an extent; `nil` in a file of its own.
    let offset: Int
    let room: Int?
    private(set) var descriptor: VmdkDescriptor
    /// In so many bytes a descriptor must show that it is one.
    private static let headBytes = 1 << 16
    /// The text as the file has it.
    private var bytes: [UInt8]

    /// Reads the descriptor; `nil` where there is no such text.
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

    /// Changes the digits of the content ID where they are, so that one sector is written. Durable on return.
    mutating func changeCID(_ next: (UInt32) -> UInt32) throws(BlockError) {
        guard let old = descriptor.cid else { return }
        let place = digitsOfCID
        let width = place.map { min($0.count, 8) } ?? 8
        let bits: UInt32 = width == 8 ? .max : (1 << (4 * UInt32(width))) &- 1
        var new = next(old) & bits
        if new == old || new == 0 || new >= Vmdk.noParent - 1 { new = (old ^ 1) & bits }
        let digits = String(new, radix: 16)
        let text = String(repeating: "0", count: max(0, width - digits.count)) + digits
        guard let place, place.count == text.utf8.count else {
            var changed = descriptor
            changed.set("CID", to: "CID=" + text)
            return try replace(with: changed)
        }
        bytes.replaceSubrange(place, with: Array(text.utf8))
        descriptor.set("CID", to: "CID=" + text)
        let sectors =
            place.lowerBound.roundedDown(
                to: Vmdk.sectorBytes)..<min(
                bytes.count, (place.upperBound + Vmdk.sectorBytes - 1).roundedDown(to: Vmdk.sectorBytes))
        try file.write(bytes.span.bytes.extracting(sectors), at: offset + sectors.lowerBound)
        try file.flush()
    }

    /// Where the digits behind `CID=` at the start of a line are.
    private var digitsOfCID: Range<Int>? {
        let key = Array("CID=".utf8)
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

    /// Replaces the text. Durable on return. The first sector has what matters and is written last, so that
    /// it is old or new; where the lines before the data base need more sectors, the power may fail between.
    mutating func replace(with changed: VmdkDescriptor) throws(BlockError) {
        let text = changed.text
        guard text.count <= min(room ?? .max, Vmdk.Limit.descriptorBytes) else {
            throw BlockError(.limit, "The descriptor does not fit into the image", path: file.filename)
        }
        // What was longer is covered: with zeroes inside an extent, else with empty lines.
        let filler: UInt8 = room == nil ? 10 : 0
        var whole = text + [UInt8](repeating: filler, count: max(0, bytes.count - text.count))
        if room != nil, let padded = whole.count.roundedUp(to: Vmdk.sectorBytes) {
            whole += [UInt8](repeating: 0, count: padded - whole.count)
        }
        // After a failure, nobody knows how long the text in the file is.
        bytes += [UInt8](repeating: filler, count: max(0, whole.count - bytes.count))
        let first = min(Vmdk.sectorBytes, whole.count)
        if whole.count > first {
            try file.write(whole.span.bytes.extracting(first..<whole.count), at: offset + first)
            try file.flush()
        }
        try file.write(whole.span.bytes.extracting(0..<first), at: offset)
        try file.flush()
        if room == nil, try file.length() > offset + text.count {
            try file.resize(to: offset + text.count)
        }
        bytes = text
        descriptor = changed
    }
}
