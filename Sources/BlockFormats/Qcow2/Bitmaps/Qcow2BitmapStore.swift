import BlockCore

/// Storing bitmaps.
///
/// Order of writes:
/// 1. Bits, tables and a new directory in free clusters, with their refcounts; a barrier.
/// 2. The extension in the header, which points to the directory, and the bit that marks it as up to date; a
///    barrier.
/// 3. The clusters of the old directory are released.
///
/// The entries of the old directory were marked as "in use" before the first change: a crash leaves bitmaps
/// that are marked as inconsistent, or the stored ones.
extension Qcow2State {
    /// Stores changed bitmaps. Durable on return; on failure the file keeps the old ones, and leaks at worst.
    func storeBitmaps() throws(BlockError) {
        guard !isReadOnly, var set = bitmaps, set.needsStoring else { return }
        try protectMetadata()
        try commit()
        var placed: [Range<HostCluster>] = []
        // The clusters of a damaged bitmap may belong to something else: they stay leaked.
        var replaced = set.removed.filter { !$0.isDamaged }.compactMap(\.stored)
        let data: [UInt8]?
        do throws(BlockError) {
            for index in set.items.indices {
                let old = set.items[index].stored
                if try store(&set.items[index], isTrusted: set.isTrusted, &placed), let old {
                    replaced.append(old)
                }
            }
            data = try writeDirectory(set.items.map(\.entry), &placed)
            hasUnflushedWrites = true
            try commit()
        } catch {
            giveBackBitmaps(placed)
            throw error
        }
        try switchDirectory(to: data, replaced, wasTrusted: set.isTrusted)
    }

    /// Stores changed bitmaps, then runs `body`, also after a failure.
    func storingBitmaps(then body: () throws(BlockError) -> Void) throws(BlockError) {
        var failures = FirstFailure()
        failures.note { () throws(BlockError) in try storeBitmaps() }
        failures.note(body)
        try failures.throwFirst()
    }

    /// - Returns: whether the bitmap has a new table.
    private func store(
        _ item: inout Qcow2BitmapSet.Item, isTrusted: Bool, _ placed: inout [Range<HostCluster>]
    ) throws(BlockError) -> Bool {
        if item.needsWriting, let bits = item.bits {
            try bits.resize(to: header.virtualSize)
            item.entry.flags.remove(.inUse)
            try writeBits(bits, &item.entry, &placed)
            return true
        }
        guard !isTrusted else { return false }
        // Its old table may be overwritten by now: it gets an empty one, so that the user can still remove
        // it.
        let bits = try? DirtyBitmap.bitCount(
            size: header.virtualSize, granularity: item.entry.granularity)
        let entries = Qcow2BitmapEntry.tableEntries(forBits: max(1, bits ?? 1), layout)
        item.entry.flags.insert(.inUse)
        try writeTable([UInt64](repeating: 0, count: entries), &item.entry, &placed)
        return true
    }

    private func place(_ count: Int, _ placed: inout [Range<HostCluster>]) throws(BlockError) -> Int {
        let first = try refcounts().allocate(count)
        placed.append(first..<first + count)
        return layout.offset(of: first).bytes
    }

    private func writeBits(
        _ bits: DirtyBitmap, _ entry: inout Qcow2BitmapEntry, _ placed: inout [Range<HostCluster>]
    ) throws(BlockError) {
        let cluster = layout.clusterSize
        let bitCount = try DirtyBitmap.bitCount(size: bits.size, granularity: bits.granularity)
        let entries = Qcow2BitmapEntry.tableEntries(forBits: bitCount, layout)
        guard entries <= Qcow2.Limit.bitmapTableEntries else {
            throw BlockError(.limit, "Bitmap '\(entry.nameText)' is too large", path: file.filename)
        }
        var table = [UInt64](repeating: 0, count: entries)
        let buffer = AlignedBuffer(count: cluster)
        for index in table.indices {
            let part = index * cluster..<(index + 1) * cluster
            let common = bits.common(inBytes: part)
            if common == false { continue }
            // "All ones" would set the unused bits behind the last one, which must be zero.
            if common == true && part.upperBound * 8 <= bitCount {
                table[index] = Qcow2BitmapTableEntry.allOnes.raw
                continue
            }
            let offset = try place(1, &placed)
            var bytes = buffer.mutableBytes
            bits.copyBytes(from: part.lowerBound, into: &bytes)
            try file.write(buffer.bytes, at: offset)
            table[index] = UInt64(offset)
        }
        try writeTable(table, &entry, &placed)
    }

    private func writeTable(
        _ table: [UInt64], _ entry: inout Qcow2BitmapEntry, _ placed: inout [Range<HostCluster>]
    ) throws(BlockError) {
        entry.tableEntries = table.count
        entry.tableOffset = try place(layout.clusters(table.count * 8), &placed)
        // Padded to whole sectors, so that the file does not end inside an entry.
        let padded = table + [UInt64](repeating: 0, count: (64 - table.count % 64) % 64)
        try BigEndianTable.write(padded, to: file, at: entry.tableOffset)
    }

    /// Writes the directory to a new place.
    ///
    /// - Returns: the header extension's new data; `nil` for no extension.
    private func writeDirectory(
        _ entries: [Qcow2BitmapEntry], _ placed: inout [Range<HostCluster>]
    ) throws(BlockError) -> [UInt8]? {
        if entries.isEmpty { return nil }
        let bytes = entries.flatMap { $0.serialised() }
        guard bytes.count <= Qcow2.Limit.bitmapDirectoryBytes, entries.count <= Qcow2.Limit.bitmaps else {
            throw BlockError(.limit, "The image has too many bitmaps", path: file.filename)
        }
        let offset = try place(layout.clusters(bytes.count), &placed)
        let rest = (Qcow2.sectorBytes - bytes.count % Qcow2.sectorBytes) % Qcow2.sectorBytes
        try file.write((bytes + [UInt8](repeating: 0, count: rest)).span.bytes, at: offset)
        let place = Qcow2BitmapExtension(
            count: entries.count, directoryBytes: bytes.count, directoryOffset: offset)
        return place.serialised()
    }

    /// Frees clusters that nothing refers to; where that fails they are leaked.
    private func giveBackBitmaps(_ placed: [Range<HostCluster>]) {
        guard let store = try? refcounts() else { return }
        for cluster in placed.joined() { _ = try? store.decrement(cluster) }
    }

    /// Makes the header point to the new directory, and releases the old one.
    private func switchDirectory(
        to data: [UInt8]?, _ replaced: [Qcow2BitmapEntry], wasTrusted: Bool
    ) throws(BlockError) {
        let old = header.extensionData(Qcow2.ExtensionType.bitmaps)
        var changed = header
        changed.setExtension(Qcow2.ExtensionType.bitmaps, to: data)
        changed.autoclear &= ~Qcow2.Autoclear.bitmaps
        if data != nil { changed.autoclear |= Qcow2.Autoclear.bitmaps }
        try rewriteHeader(to: changed)
        bitmaps = nil
        protection = nil
        guard wasTrusted, let old, let place = try? Qcow2BitmapExtension(old, layout) else { return }
        // The file keeps their space: the next session stores bitmaps in these clusters.
        release(
            layout.cluster(at: HostOffset(place.directoryOffset)),
            count: layout.clusters(place.directoryBytes),
            leavesDamage: true)
        for entry in replaced { try releaseBitmap(entry) }
        try commit()
    }

    /// Releases a bitmap's table and data; if the table has a wrong entry all of them stay leaked.
    private func releaseBitmap(_ entry: Qcow2BitmapEntry) throws(BlockError) {
        let fileClusters = layout.clusters(try file.length())
        guard entry.tableDefect(layout, fileClusters: fileClusters) == nil else { return }
        let table = try BigEndianTable.read(file, at: entry.tableOffset, count: entry.tableEntries)
            .map(Qcow2BitmapTableEntry.init(raw:))
        guard !table.contains(where: { $0.defect(layout, fileClusters: fileClusters) != nil }) else { return }
        for place in table where place.hostOffset != .zero {
            release(layout.cluster(at: place.hostOffset), count: 1, leavesDamage: true)
            if hasTooManyFrees { try commit() }
        }
        release(
            layout.cluster(at: HostOffset(entry.tableOffset)),
            count: layout.clusters(entry.tableEntries * 8),
            leavesDamage: true)
    }

    /// The clusters of the bitmaps' directory and tables; none where they are out of date.
    func bitmapAreas() throws(BlockError) -> [Range<HostCluster>] {
        guard let data = header.extensionData(Qcow2.ExtensionType.bitmaps) else { return [] }
        let set = try bitmapSet()
        guard set.isTrusted else { return [] }
        let fileClusters = layout.clusters(try file.length())
        let place = try Qcow2BitmapExtension(data, layout)
        let tables = (set.items + set.removed).compactMap(\.stored)
            .filter { $0.tableDefect(layout, fileClusters: fileClusters) == nil }
            .map { ($0.tableOffset, $0.tableEntries * 8) }
        return ([(place.directoryOffset, place.directoryBytes)] + tables).map { offset, bytes in
            layout.clusters(at: HostOffset(offset), bytes: bytes)
        }
    }
}

extension Qcow2Driver {
    /// The size of bitmaps in an image of that layout when every cluster of bits is stored, in bytes.
    static func bitmapBytes(_ bitmaps: [BitmapInfo], virtualSize: Int, _ layout: Qcow2Layout) -> Int {
        if bitmaps.isEmpty { return 0 }
        var clusters = 0
        var directory = 0
        for bitmap in bitmaps {
            let bits = try? DirtyBitmap.bitCount(size: virtualSize, granularity: bitmap.granularity)
            let entries = Qcow2BitmapEntry.tableEntries(forBits: bits ?? 0, layout)
            clusters += entries + layout.clusters(entries * 8)
            directory += Qcow2BitmapEntry.size(nameBytes: bitmap.name.rawBytes.count)
        }
        return (clusters + layout.clusters(directory)) << layout.clusterBits
    }
}
