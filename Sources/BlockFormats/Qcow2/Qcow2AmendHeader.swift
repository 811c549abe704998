import BlockCore

extension Qcow2Metadata {
    /// Makes a header with the same extensions and the same backing name durable, by writing its fixed
    /// fields: less than a sector. The header in memory changes only when that worked.
    func switchHeader(to changed: Qcow2Header) throws(BlockError) {
        try barrier()
        try file.write(changed.fixedBytes().span.bytes, at: 0)
        try barrier()
        adopt(changed)
    }

    /// Makes a header of another shape durable: one whose extensions are longer, shorter or elsewhere.
    ///
    /// Order of writes: first, with a barrier, what the header in the file does not refer to (extensions
    /// behind the first sector, the backing name's new place); then the first sector, which is old or new
    /// after a crash, and refers to nothing but what is there.
    /// - Throws: `limit` where no such order exists; nothing is changed then.
    func replaceHeader(with wanted: Qcow2Header) throws(BlockError) {
        let rewrite = try Qcow2HeaderRewrite(from: header, to: wanted)
        if !rewrite.early.isEmpty {
            for part in rewrite.early { try file.write(part.bytes.span.bytes, at: part.offset) }
        }
        try barrier()
        try file.write(rewrite.switching.span.bytes, at: 0)
        try barrier()
        adopt(rewrite.header)
    }
}

/// How to get from one header to another without a moment in which the file has neither.
struct Qcow2HeaderRewrite {
    /// The new header, with the backing name's place.
    private(set) var header: Qcow2Header
    /// Written first; the old header refers to none of these bytes.
    private(set) var early: [(offset: Int, bytes: [UInt8])] = []
    /// Written last, to the start of the file: at most one sector.
    private(set) var switching: [UInt8] = []

    /// - Throws: `limit` when there is no safe way.
    init(from old: Qcow2Header, to wanted: Qcow2Header) throws(BlockError) {
        header = wanted
        if plan(old) { return }
        // The names of feature bits are a courtesy; they give way.
        header.extensions.removeAll { $0.type == Qcow2.ExtensionType.featureNames }
        if plan(old) { return }
        throw BlockError(.limit, "The header has no room for the change beside its extensions")
    }

    /// Finds places for everything; `false` when there are none.
    private mutating func plan(_ old: Qcow2Header) -> Bool {
        let sector = Qcow2.sectorBytes
        let cluster = 1 << header.clusterBits
        header.backingOffset = 0
        let end = header.bytesWithExtensions().count
        let oldEnd = old.bytesWithExtensions().count
        guard end <= cluster, end <= sector || oldEnd <= sector else { return false }
        let oldName = old.backingOffset..<old.backingOffset + (old.backing == nil ? 0 : old.backingNameBytes)
        // Behind the first sector the old name must stay whole until the new header counts.
        guard end <= sector || !oldName.overlaps(sector..<end) else { return false }
        early = []
        var first: [UInt8] = []
        if let backing = header.backing {
            let name = Array(backing.filename.utf8)
            // Bytes that are no text are not known here: such a name stays where it is.
            let isKnown = name.count == old.backingNameBytes
            if oldName.lowerBound >= end {
                header.backingOffset = oldName.lowerBound
            } else if isKnown, end + name.count <= sector {
                header.backingOffset = end
                first = name
            } else {
                var place = max(end, oldEnd, sector)
                if oldName.overlaps(place..<place + name.count) { place = oldName.upperBound }
                guard isKnown, place + name.count <= cluster else { return false }
                header.backingOffset = place
                early.append((place, name))
            }
        }
        let bytes = header.bytesWithExtensions() + first
        switching = Array(bytes.prefix(sector))
        if bytes.count > sector { early.append((sector, Array(bytes.dropFirst(sector)))) }
        return true
    }
}
