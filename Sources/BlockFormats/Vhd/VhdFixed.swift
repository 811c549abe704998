import BlockCore

/// A fixed disk: the guest's bytes, and a footer behind them.
///
/// Not thread-safe: the session's lock guards it, as a part of ``VhdImage``.
struct VhdFixed: Sendable {
    let file: BlockNode
    let sizeRule: VhdFooter.SizeRule?
    var isReadOnly: Bool
    var writes: TableWrites?
    var footer: VhdFooter
    /// The offset of the footer in the file, in bytes.
    var footerOffset: Int
    var damages: [String]
    /// Whether a failed write left the footer in the file undefined.
    var footerIsDirty = false

    init(file: BlockNode, layout: VhdLayout, sizeBy sizeRule: VhdFooter.SizeRule?, isReadOnly: Bool) {
        self.file = file
        self.sizeRule = sizeRule
        self.isReadOnly = isReadOnly
        footer = layout.footer
        footerOffset = layout.footerOffset ?? 0
        damages = layout.damages
    }

    /// The footer's size was validated when the image was opened.
    var virtualSize: Int { (try? footer.virtualSize(by: sizeRule)) ?? 0 }

    /// The bytes that the disk needs before the footer: the larger of its two sizes.
    func neededBytes() throws(BlockError) -> Int {
        max(try footer.virtualSize(), try footer.statedSize())
    }

    /// Checks that the disk ends before the footer, which the guest must neither read nor write.
    func checkLength() throws(BlockError) {
        guard virtualSize <= footerOffset else {
            throw BlockError(
                .corrupt,
                "The file has only \(footerOffset) bytes of a VHD disk of \(virtualSize): "
                    + "\(virtualSize - footerOffset) bytes are missing")
        }
    }

    private func write(_ footer: VhdFooter, at offset: Int, _ file: BlockNode) throws(BlockError) {
        try file.write(footer.sealed().span.bytes, at: offset)
        try file.flush()
    }

    /// Makes the disk larger. The order of writes:
    ///
    /// 1. the footer with the old size, at the new end; a flush;
    /// 2. zeroes over the old footer and the new space; a flush;
    /// 3. the footer with the new size, one sector.
    mutating func grow(from old: Int, to size: Int, _ file: BlockNode) throws(BlockError) {
        let place = max(size, footerOffset)
        var stale = old..<min(size, footerOffset)
        if place > footerOffset {
            try write(footer, at: place, file)
            stale = old..<min(size, footerOffset + Vhd.footerBytes)
            footerOffset = place
        }
        try file.writeZeroes(at: stale.lowerBound, count: stale.count)
        try file.flush()
        try setSize(size, file)
    }

    /// Makes the disk smaller: the size first; then the footer moves, and the file is cut. If the cut fails,
    /// the file stays longer than necessary.
    mutating func shrink(to size: Int, _ file: BlockNode) throws(BlockError) {
        try setSize(size, file)
        do throws(BlockError) { try cut(to: size, file) } catch {}
    }

    /// Removes unused space between the disk and the footer.
    mutating func cut(to size: Int, _ file: BlockNode) throws(BlockError) {
        guard size < footerOffset else { return }
        try write(footer, at: size, file)
        try file.resize(to: size + Vhd.footerBytes)
        footerOffset = size
        try file.flush()
    }

    private mutating func setSize(_ size: Int, _ file: BlockNode) throws(BlockError) {
        let before = footer
        footer.setSize(size)
        do throws(BlockError) { try write(footer, at: footerOffset, file) } catch {
            footer = before
            footerIsDirty = true
            throw error
        }
    }

    /// Writes the current footer again after a failure or damage.
    mutating func settle(_ file: BlockNode) throws(BlockError) {
        guard footerIsDirty else { return }
        try write(footer, at: footerOffset, file)
        footerIsDirty = false
    }
}

/// The mapping: guest offsets are file offsets.
extension VhdFixed {
    func run(at offset: Int, limit: Int) -> Extent { Extent(.data(hostOffset: offset), length: limit) }

    func grant(_ guest: Range<Int>, over backingEnd: Int) -> WriteGrant {
        WriteGrant(inPlace: guest, at: guest.lowerBound, in: file)
    }

    func clear(_ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int) -> ClearStep {
        ClearStep(.zero(grant(range, over: backingEnd)), length: range.count)
    }

    mutating func finish() throws(BlockError) { try settle(file) }

    mutating func commit() throws(BlockError) {
        try settle(file)
        try file.flush()
    }

    mutating func takeChanges() throws(BlockError) -> TableWrites {
        try settle(file)
        return TableWrites([], to: file)
    }
}
