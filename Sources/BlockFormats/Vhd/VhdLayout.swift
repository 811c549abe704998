import BlockCore

/// The descriptions of an image: its footers, and the header of a dynamic disk.
struct VhdLayout {
    var footer: VhdFooter
    /// The offset of the footer at the end of the file, in bytes; `nil` when that footer is damaged.
    var footerOffset: Int?
    /// `nil` for fixed disks.
    var header: VhdHeader?
    /// The damages of the descriptions, one line each.
    var damages: [String] = []
    /// Whether both footers are valid but differ: an update was interrupted.
    var isCopyStale = false

    /// Reads the descriptions. The footer at the end defines the image; its copy at the start is used when
    /// that is damaged.
    ///
    /// A fixed disk has guest bytes at the start. Only the footer at the end can make a disk fixed, and it
    /// stays fixed when the guest writes a footer to its start.
    ///
    /// A header with a wrong checksum is accepted, because other programs do not verify it; its fields are
    /// validated anyway.
    ///
    /// Errors are detected in QEMU's order, and reported in QEMU's words where it has the same ones.
    ///
    /// - Parameters:
    ///   - leniently: accepts footers with wrong checksums, for a check.
    ///   - rule: which of the two sizes is the disk's; `nil` for the footer's own rule.
    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `limit`.
    static func read(
        _ file: BlockNode, leniently: Bool, sizeBy rule: VhdFooter.SizeRule? = nil
    ) throws(BlockError) -> VhdLayout {
        let length = try file.length()
        if length == 0 { throw BlockError(.wrongFormat, "File too small for a VHD header") }
        let (last, place) = try footerAtEnd(file, length)
        let first = VhdFooter.find(
            try file.readBytes(at: 0, count: min(Vhd.footerBytes, max(0, length))))
        var layout = try choose(last, place, first, leniently: leniently)
        try layout.footer.validate()
        guard layout.footer.type != .fixed else { return layout }
        guard let offset = layout.footer.headerOffset, offset <= Int.max - Vhd.headerBytes else {
            throw BlockError(
                .corrupt, "Error reading dynamic VHD header", hint: "The footer states no place for it.")
        }
        guard offset <= length - Vhd.headerBytes else {
            throw try file.cutError("The VHD image's header", end: offset + Vhd.headerBytes, at: offset)
        }
        let bytes = try file.readBytes(at: offset, count: Vhd.headerBytes)
        let header = try VhdHeader.parse(bytes, at: offset)
        if !header.isIntact { layout.damages.append("the checksum of the header is wrong") }
        layout.header = header
        guard try layout.footer.virtualSize(by: rule) <= header.blocks * header.blockBytes else {
            throw BlockError(.corrupt, "Page table too small")
        }
        try header.checkPlaces()
        let table = header.tableRange.lowerBound
        guard table + header.blocks * 4 <= length else {
            throw try file.cutError("The VHD image's block table", end: table + header.blocks * 4, at: table)
        }
        return layout
    }

    private static func footerAtEnd(
        _ file: BlockNode, _ length: Int
    ) throws(BlockError) -> (VhdFooter?, Int) {
        for count in [Vhd.footerBytes, Vhd.oldFooterBytes] where length >= count {
            let bytes = try file.readBytes(at: length - count, count: count)
            if let footer = VhdFooter.find(bytes) { return (footer, length - count) }
        }
        return (nil, 0)
    }

    private static func choose(
        _ last: VhdFooter?, _ place: Int, _ first: VhdFooter?, leniently: Bool
    ) throws(BlockError) -> VhdLayout {
        if let last, last.isIntact {
            var layout = VhdLayout(footer: last, footerOffset: place)
            if last.type != .fixed { layout.compare(with: first) }
            return layout
        }
        if let first, first.isIntact, first.type != .fixed {
            return VhdLayout(
                footer: first, damages: ["the footer at the end of the file is missing or damaged"])
        }
        guard let any = last ?? first else {
            throw BlockError(
                .wrongFormat, "invalid VPC image",
                hint: "It has no footer: the end of the file may be missing.")
        }
        guard leniently, last != nil || any.type != .fixed else {
            throw BlockError(
                .corrupt, "Incorrect header checksum", hint: "It is the footer whose checksum is wrong.")
        }
        return VhdLayout(
            footer: any, footerOffset: last == nil ? nil : place,
            damages: ["the checksum of the footer is wrong"])
    }

    private mutating func compare(with copy: VhdFooter?) {
        guard let copy, copy.isIntact, copy.uuid == footer.uuid, copy.type != .fixed else {
            damages.append("the copy of the footer at the start of the file is damaged")
            return
        }
        isCopyStale = copy != footer
    }
}

extension VhdLayout {
    /// The parent that a differencing image names.
    func parent(in file: BlockNode) throws(BlockError) -> BackingReference? {
        guard footer.type == .differencing, let header else { return nil }
        let length = try file.length()
        var spellings: [String: [UInt8]] = [:]
        for locator in header.locators where locator.offset <= length - locator.length {
            let bytes = try file.readBytes(at: locator.offset, count: locator.length)
            spellings[locator.platform] = spellings[locator.platform] ?? bytes
        }
        let paths = VhdParent.paths(of: spellings, name: header.parentName)
        guard let stated = paths.first else { return nil }
        // Without a UUID, a file under another name cannot be verified to be the parent.
        let others = header.parentUUID == VhdParent.unknown ? [] : Array(paths.dropFirst())
        return BackingReference(filename: stated, format: VhdDriver.name, otherNames: others)
    }
}
