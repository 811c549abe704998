import BlockCore

/// What has a list in the image: snapshots and bitmaps. Entries that cannot stay are left out of a new list.
extension Qcow2Repair {
    /// Writes the snapshot table anew, in full, without snapshots that have no L1 table any more.
    mutating func repairSnapshotTable(
        _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        let completed = survey.incompleteSnapshots
        var kept: [Qcow2Snapshot] = []
        for snapshot in try tables.snapshotTable(checksPlaces: false).snapshots {
            if let placed = scope.placed(snapshot) {
                if placed != snapshot { survey.hasLosses = true }
                kept.append(placed.withBoundedExtra)
            } else {
                survey.hasLosses = true
                report("Removing snapshot '\(snapshot.info.name)', whose tables are lost")
            }
        }
        report("Repairing the snapshot table")
        try tables.replaceSnapshotTable(kept, keepsOld: survey.hasLosses)
        try tables.commit()
        scope = try Qcow2CheckScope(tables)
        survey.usedClusters = 0
        try surveyAgain(&survey)
        survey.corruptionsFixed += completed
    }

    /// Removes damaged bitmaps, and all of them where the directory is damaged or out of date, before
    /// refcounts are repaired: what they took is leaked then.
    mutating func removeBitmaps(
        _ plan: Qcow2RepairPlan, _ survey: inout Qcow2Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        guard let data = tables.header.extensionData(Qcow2.ExtensionType.bitmaps) else { return }
        guard tables.bitmapsAreCurrent else {
            report("Removing bitmaps that were not kept up to date")
            try tables.keepBitmaps([])
            return try surveyAgain(&survey)
        }
        let bad = survey.badBitmaps
        var kept: [Qcow2BitmapEntry] = []
        if bad.hasBadDirectory {
            report("Removing the damaged bitmap directory with all bitmaps")
            // A damaged bitmap alone is given up with all that it had; where the others were is not known.
            survey.hasLosses = true
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
        // Each is one corruption, and none is found again.
        try surveyAgain(&survey)
    }
}

extension Qcow2State {
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
