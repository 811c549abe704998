import BlockCore

/// A refcount table that becomes larger moves to another place in the file.
///
/// Order of writes:
/// 1. The new place is taken and filled as soon as the table outgrows the old one: a full disk then refuses
///    the clusters that only the larger table can count.
/// 2. With the next commit, the refcount blocks, then the table in its new place; a barrier.
/// 3. The header that points there; a barrier. Then the old place is free.
extension Qcow2Allocator {
    /// A larger table that is not yet in the file.
    struct Growth {
        /// Whether the table that the header points to has fewer entries.
        var needsPlacing = false
        /// Clusters taken for the larger table.
        var place: Range<HostCluster>?
        /// How many entries the table in the file has, or, once ``place`` is taken, the table for it.
        var placedEntries = 0
        /// Whether a place is being taken: its own clusters may need more entries, but not another place.
        var isPlacing = false
    }

    /// Whether a larger table waits for its place in the file. Growing sets it; the owner places the table.
    var needsPlacing: Bool { growth.needsPlacing }

    /// Makes the table hold `index`, in memory; ``placeTable()`` puts it into the file.
    func growTable(toHold index: Int) throws(BlockError) {
        let margin = 16 + index / 1024
        let needed = layout.clusters((index + 1 + margin) * 8)
        let clusters = max(needed, min(tableClusters + tableClusters / 2 + 1, needed * 2))
        let entries = (clusters << layout.clusterBits) / 8
        guard entries * 8 <= Qcow2.Limit.refcountTableBytes else {
            throw BlockError(.noSpace, "The refcount table would become too large", path: file.filename)
        }
        if !growth.needsPlacing { growth.placedEntries = table.count }
        table += repeatElement(0, count: entries - table.count)
        growth.needsPlacing = true
    }

    /// Takes the place of a table that has just grown. A failure undoes the growth; the caller gives back the
    /// clusters for which the table grew.
    func placeGrownTable() throws(BlockError) {
        guard growth.needsPlacing, !growth.isPlacing, growth.placedEntries < table.count else { return }
        growth.isPlacing = true
        defer { growth.isPlacing = false }
        let before = growth.place
        do throws(BlockError) {
            // The margin that growTable(toHold:) adds is enough for the blocks that count the place.
            let clusters = layout.clusters(table.count * 8)
            file.emit(.refcountTableGrow)
            let start = try allocate(clusters)
            do throws(BlockError) {
                guard layout.clusters(table.count * 8) == clusters else {
                    throw BlockError(.noSpace, "The refcount table could not grow", path: file.filename)
                }
                try file.writeReservedZeroes(
                    at: layout.offset(of: start).bytes, count: clusters << layout.clusterBits)
            } catch {
                giveBack(start..<start + clusters)
                throw error
            }
            growth.place = start..<start + clusters
            growth.placedEntries = table.count
        } catch {
            // 0 means that the table did not grow: there is nothing to undo.
            if growth.placedEntries > 0 { shrinkTable(to: growth.placedEntries) }
            throw error
        }
        if let before { giveBack(before) }
    }

    /// Drops the blocks of a growth that failed, and their entries. All that they still count are the
    /// clusters of the request that is about to fail.
    private func shrinkTable(to entries: Int) {
        for index in entries..<table.count where table[index] != 0 {
            let block = layout.cluster(in: table[index])
            _ = try? decrement(block)
            cache.discard(layout.bytes(of: block))
        }
        table.removeLast(table.count - entries)
        dirtyTable = dirtyTable.map { $0.clamped(to: 0..<entries) }
        if dirtyTable?.isEmpty == true { dirtyTable = nil }
        growth.needsPlacing = growth.place != nil
    }

    /// Writes a grown table to its new place. The owner then makes it durable, points the header to it, makes
    /// that durable, and frees the old place.
    func placeTable() throws(BlockError) {
        // No place was taken yet if the table grew without an allocation, or moves without growing.
        if growth.place == nil {
            growth.needsPlacing = true
            try placeGrownTable()
        }
        guard let place = growth.place else {
            throw BlockError(.noSpace, "The refcount table could not grow", path: file.filename)
        }
        file.emit(.refcountGrowWriteBlocks)
        try cache.writeBack()
        file.emit(.refcountGrowWriteTable)
        let offset = layout.offset(of: place.lowerBound).bytes
        try BigEndianTable.write(table, to: file, at: offset)
        tableOffset = offset
        tableClusters = place.count
        dirtyTable = nil
        growth = Growth()
    }

    /// Reserves the file space of the entry's sector, also where the table was a hole.
    func reserveEntry(_ index: Int) throws(BlockError) {
        guard !growth.needsPlacing else { return }
        let sector = (tableOffset + index * 8).roundedDown(to: Qcow2.sectorBytes)
        try file.fillHoles(in: sector..<sector + Qcow2.sectorBytes)
    }
}
