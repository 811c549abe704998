import BlockCore

/// What is wrong with the bitmaps of an image.
struct BadBitmaps {
    /// Where in the directory the entries of damaged ones start.
    var positions: Set<Int> = []
    /// The extension or the directory itself is damaged.
    var hasBadDirectory = false
    /// How many clusters with bits the tables refer to.
    var dataClusters = 0
    /// The clusters of the directory.
    var directory = 0..<0

    /// How many findings this makes.
    var count: Int { positions.count + (hasBadDirectory ? 1 : 0) }
}

extension Qcow2Checker {
    /// Counts what bitmaps take: directory, tables and data (section "Bitmaps").
    ///
    /// A directory that the header does not vouch for counts for nothing: who wrote to the image may have
    /// freed it and put something else there.
    mutating func countBitmaps(
        _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        badBitmaps = BadBitmaps()
        guard tables.vouchesForBitmaps, let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps)
        else { return }
        let entries: [Qcow2BitmapEntry]
        do throws(BlockError) { entries = try tables.bitmapDirectory(data) } catch {
            if error.kind == .io { throw error }
            return badDirectory("ERROR \(error.message)", report)
        }
        if let place = try? Qcow2BitmapExtension(data, layout),
            count("bitmap directory", place.directoryOffset, place.directoryBytes, &window, report)
        {
            let first = place.directoryOffset >> layout.clusterBits
            badBitmaps.directory = first..<first + layout.clusters(place.directoryBytes)
        }
        let sharing = Qcow2BitmapEntry.sharingTables(entries, layout, fileClusters: fileClusters)
        var names: Set<[UInt8]> = []
        for entry in entries {
            if sharing.contains(entry.position) {
                badBitmap(entry, "its table is another one's too", report)
            }
            if !names.insert(entry.name).inserted {
                badBitmap(entry, "another one has the same name", report)
            }
            try countBitmap(entry, &window, report)
        }
    }

    /// Counts one bitmap's table and data.
    private mutating func countBitmap(
        _ entry: Qcow2BitmapEntry, _ window: inout ReferenceWindow, _ report: (String) -> Void
    ) throws(BlockError) {
        let size = tables.header.virtualSize
        if let defect = entry.damage(layout, virtualSize: size, fileClusters: fileClusters) {
            badBitmap(entry, defect, report)
        }
        guard entry.tableDefect(layout, fileClusters: fileClusters) == nil else { return }
        count("bitmap table", entry.tableOffset, entry.tableEntries * 8, &window, report)
        for raw in try BigEndianTable.read(tables.file, at: entry.tableOffset, count: entry.tableEntries)
        where raw != 0 {
            let place = Qcow2BitmapTableEntry(raw: raw)
            if let defect = place.defect(layout, fileClusters: fileClusters) {
                badBitmap(entry, defect, report)
            } else if place.hostOffset != 0 {
                let cluster = place.hostOffset >> layout.clusterBits
                window.count(cluster..<cluster + 1)
                endOfReferences = max(endOfReferences, cluster + 1)
                badBitmaps.dataClusters += 1
            }
        }
        // Readers refuse it, too.
        if badBitmaps.dataClusters > fileClusters {
            badBitmap(entry, "its table refers to clusters that are referred to already", report)
        }
    }

    /// Told once for each bitmap.
    private mutating func badBitmap(
        _ entry: Qcow2BitmapEntry, _ defect: String, _ report: (String) -> Void
    ) {
        guard badBitmaps.positions.insert(entry.position).inserted else { return }
        corruption("ERROR bitmap '\(entry.nameText)' is damaged: \(defect)", report)
        cannotFollow("bitmap '\(entry.nameText)' is damaged")
    }

    private mutating func badDirectory(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        badBitmaps.hasBadDirectory = true
        corruption(line(), report)
        cannotFollow("the bitmap directory is damaged")
    }

    /// The directory is written in place, so it has its clusters to itself.
    mutating func checkBitmapOverlaps(_ window: ReferenceWindow, _ report: (String) -> Void) {
        let shared = badBitmaps.directory.clamped(to: window.clusters).first { window.count(of: $0) > 1 }
        if let shared {
            badDirectory("ERROR bitmap directory is in cluster \(shared), which is used otherwise", report)
        }
    }

    /// Removes damaged bitmaps, and all of them where the directory is damaged or out of date, before
    /// refcounts are mended: what they took is leaked then.
    ///
    /// - Returns: whether any were removed.
    mutating func mendBitmaps(_ repair: RepairMode, _ report: (String) -> Void) throws(BlockError) -> Bool {
        guard let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps) else { return false }
        if !tables.vouchesForBitmaps {
            report("Removing bitmaps that were not kept up to date")
            try tables.keepBitmaps([])
            return true
        }
        let bad = badBitmaps
        guard repair == .all, bad.count > 0 else { return false }
        var kept: [Qcow2BitmapEntry] = []
        if bad.hasBadDirectory {
            report("Removing the damaged bitmap directory with all bitmaps")
            // A damaged bitmap alone is given up with all that it had; where the others were is not known.
            hasLosses = true
        } else {
            for entry in try tables.bitmapDirectory(data) {
                if bad.positions.contains(entry.position) {
                    report("Removing the damaged bitmap '\(entry.nameText)'")
                } else {
                    kept.append(entry)
                }
            }
        }
        try tables.keepBitmaps(kept)
        result.corruptions -= bad.count
        unmendable -= bad.count
        result.corruptionsFixed += bad.count
        badBitmaps = BadBitmaps()
        return true
    }
}

extension Qcow2Metadata {
    /// Leaves only some entries in the directory; what the others took is leaked. Allocates nothing.
    ///
    /// Order of writes: the header stops vouching for the directory, a barrier; the directory in its place, a
    /// barrier; the header.
    fileprivate func keepBitmaps(_ entries: [Qcow2BitmapEntry]) throws(BlockError) {
        var changed = header
        changed.autoclear &= ~Qcow2.Autoclear.bitmaps
        bitmaps = nil
        protection = nil
        guard let data = header.extensionData(Qcow2.ExtensionType.bitmaps), !entries.isEmpty else {
            changed.setExtension(Qcow2.ExtensionType.bitmaps, to: nil)
            return try rewriteHeader(to: changed)
        }
        var place = try Qcow2BitmapExtension(data, layout)
        try rewriteHeader(to: changed)
        let bytes = entries.flatMap { $0.serialised() }
        try file.write(bytes.span.bytes, at: place.directoryOffset)
        try barrier()
        place.count = entries.count
        place.directoryBytes = bytes.count
        changed = header
        changed.setExtension(Qcow2.ExtensionType.bitmaps, to: place.serialised())
        changed.autoclear |= Qcow2.Autoclear.bitmaps
        try rewriteHeader(to: changed)
    }
}
