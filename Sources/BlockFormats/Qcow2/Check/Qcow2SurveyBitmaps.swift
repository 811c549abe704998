import BlockCore

/// Persistent bitmaps: directory, tables and data (section "Bitmaps").
extension Qcow2Surveyor {
    /// Counts what bitmaps take.
    ///
    /// A directory that the header does not vouch for counts for nothing: who wrote to the image may have
    /// freed it and put something else there.
    mutating func countBitmaps() throws(BlockError) {
        guard tables.bitmapsAreCurrent, let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps)
        else { return }
        let entries: [Qcow2BitmapEntry]
        do throws(BlockError) { entries = try tables.bitmapDirectory(data) } catch {
            if error.kind == .io { throw error }
            return badDirectory("ERROR \(error.message)")
        }
        if let place = try? Qcow2BitmapExtension(data, layout),
            count("bitmap directory", place.directoryOffset, place.directoryBytes)
        {
            let first = place.directoryOffset >> layout.clusterBits
            survey.badBitmaps.directory = first..<first + layout.clusters(place.directoryBytes)
        }
        let sharing = Qcow2BitmapEntry.sharingTables(entries, layout, fileClusters: scope.fileClusters)
        var names: Set<[UInt8]> = []
        for entry in entries {
            if sharing.contains(entry.position) { badBitmap(entry, "its table is another one's too") }
            if !names.insert(entry.name).inserted { badBitmap(entry, "another one has the same name") }
            try countBitmap(entry)
        }
    }

    /// Counts one bitmap's table and data.
    private mutating func countBitmap(_ entry: Qcow2BitmapEntry) throws(BlockError) {
        let size = tables.header.virtualSize
        if let defect = entry.damage(layout, virtualSize: size, fileClusters: scope.fileClusters) {
            badBitmap(entry, defect)
        }
        guard entry.tableDefect(layout, fileClusters: scope.fileClusters) == nil else { return }
        count("bitmap table", entry.tableOffset, entry.tableEntries * 8)
        for raw in try BigEndianTable.read(tables.file, at: entry.tableOffset, count: entry.tableEntries)
        where raw != 0 {
            let place = Qcow2BitmapTableEntry(raw: raw)
            if let defect = place.defect(layout, fileClusters: scope.fileClusters) {
                badBitmap(entry, defect)
            } else if place.hostOffset != .zero {
                let cluster = layout.cluster(at: place.hostOffset).index
                count(cluster..<cluster + 1)
                survey.badBitmaps.dataClusters += 1
            }
        }
        // Readers refuse it, too.
        if survey.badBitmaps.dataClusters > scope.fileClusters {
            badBitmap(entry, "its table refers to clusters that are referred to already")
        }
    }

    /// Noted once for each bitmap.
    private mutating func badBitmap(_ entry: Qcow2BitmapEntry, _ defect: String) {
        guard survey.badBitmaps.positions.insert(entry.position).inserted else { return }
        survey.corruption("ERROR bitmap '\(entry.nameText)' is damaged: \(defect)")
        survey.cannotFollow("bitmap '\(entry.nameText)' is damaged")
    }

    private mutating func badDirectory(_ line: @autoclosure () -> String) {
        survey.badBitmaps.hasBadDirectory = true
        survey.corruption(line())
        survey.cannotFollow("the bitmap directory is damaged")
    }

    /// The directory is written in place, so it has its clusters to itself.
    mutating func checkBitmapOverlaps() {
        let directory = survey.badBitmaps.directory.clamped(to: window.clusters)
        if let shared = directory.first(where: { window.count(of: $0) > 1 }) {
            badDirectory("ERROR bitmap directory is in cluster \(shared), which is used otherwise")
        }
    }
}
