import BlockCore

extension VhdDriver: Rebasable {
    /// Changes the parent that the image names.
    ///
    /// The order of writes:
    ///
    /// 1. when the disk gets its first parent: bitmaps that mark all sectors of its stored blocks; when it
    ///    loses its parent: zeroes over the sectors of stored blocks that show the parent, which no read uses
    ///    yet;
    /// 2. the new names, in space that the header does not refer to, and the new header, in free space; a
    ///    flush;
    /// 3. the footers that refer to the new header, one sector each. Both headers are valid meanwhile;
    /// 4. the header at its usual place again, and then the footers that refer to it;
    /// 5. when the disk has lost its parent: bitmaps that mark all sectors.
    ///
    /// After a crash at any point the disk shows all of its parent or nothing of it.
    ///
    /// - Throws: `unsupported` for a fixed disk; `invalidArgument`, `limit`, `notFound` for the parent;
    ///   `noSpace`, `io`.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        guard isDynamic else {
            throw BlockError(.unsupported, "A fixed VHD image has no backing file", path: file.filename)
        }
        let parent = try backing.map { (reference) throws(BlockError) in try identify(reference) }
        try session.exclusively { (image) throws(BlockError) in
            try image.dynamic?.changeParent(to: parent)
            image.backing = parent.map { BackingReference(filename: $0.path, format: Self.name) }
        }
    }

    private func identify(_ reference: BackingReference) throws(BlockError) -> VhdParent {
        let path = try VhdParent.path(of: reference)
        var parent = VhdParent(uuid: VhdParent.unknown, time: 0, path: path)
        let node: BlockNode
        do throws(BlockError) {
            node = try request.openBacking(BackingReference(filename: path, format: Self.name))
        } catch {
            // A change of the reference alone may name a missing file.
            if request.settings.withoutBacking, error.kind == .notFound { return parent }
            throw error
        }
        if let footer = VhdFooter(parentIdentity: node) {
            parent.uuid = footer.uuid
            parent.time = footer.time
        }
        try node.close()
        guard parent.uuid != footer.uuid else {
            throw BlockError(
                .invalidArgument, "The parent has the same UUID as the image", path: file.filename)
        }
        return parent
    }
}

extension VhdState {
    fileprivate mutating func changeParent(to parent: VhdParent?) throws(BlockError) {
        try commit()
        let wasDifferencing = isDifferencing
        if parent == nil { try zeroAbsentSectors() }
        if parent != nil && !wasDifferencing { try fillBitmaps() }
        try setParent(parent, of: file.filename)
        // A failure is ignored: without a parent, the next write to a block completes its bitmap.
        if parent == nil && wasDifferencing { try? fillBitmaps() }
    }

    /// Zeroes the sectors of stored blocks that show the parent. Durable on return.
    private mutating func zeroAbsentSectors() throws(BlockError) {
        guard isDifferencing else { return }
        let sectors = header.blockBytes / Vhd.sectorBytes
        for block in 0..<table.count {
            guard let place = place(of: block) else { continue }
            var first = 0
            while first < sectors {
                let run = try sectorRun(at: place, first..<sectors)
                if !run.isSet {
                    try file.writeZeroes(
                        at: place + header.bitmapBytes + first * Vhd.sectorBytes,
                        count: (run.end - first) * Vhd.sectorBytes)
                }
                first = run.end
            }
        }
        try file.flush()
    }

    /// Marks all sectors in the bitmaps of stored blocks.
    private mutating func fillBitmaps() throws(BlockError) {
        for block in 0..<table.count {
            guard let place = place(of: block) else { continue }
            try mark(place, 0..<header.blockBytes / Vhd.sectorBytes)
        }
        try commit()
    }

    private mutating func setParent(_ parent: VhdParent?, of filename: String) throws(BlockError) {
        var new = header
        let survey = try survey()
        let spellings = parent?.spellings(from: filename) ?? []
        let length = VhdNames(spellings, at: 0).end
        let names = VhdNames(spellings, at: survey.place(forDescriptions: length))
        new.setParent(parent, names.locators)
        // The new header's temporary place is behind everything else.
        new.offset = max(survey.end.roundedUp(to: Vhd.sectorBytes) ?? survey.end, names.end, nextFree)
        spare = VhdSpareBlocks()
        nextFree = new.range.upperBound
        if nextFree > footerOffset ?? 0 { try moveFooter(to: nextFree) }
        try names.write(to: file)
        try switchHeader(to: new, parent == nil ? .dynamic : .differencing)
        // The parent is changed from here on; a failure only leaves the header at its temporary place.
        new.offset = Vhd.usualHeaderOffset
        let usual = new.range
        if !VhdSurvey.metadata(of: new).contains(where: { $0 != usual && $0.overlaps(usual) }) {
            do throws(BlockError) { try switchHeader(to: new, footer.type) } catch {}
        }
        adopt(try self.survey())
        trim()
    }

    /// Writes a header to a place without a reference, then the footers that refer to it.
    private mutating func switchHeader(
        to new: VhdHeader, _ type: Vhd.DiskType?
    ) throws(BlockError) {
        try file.write(new.sealed().span.bytes, at: new.offset)
        try file.flush()
        let before = footer
        footer.type = type
        footer.headerOffset = new.offset
        do throws(BlockError) { try writeFooters() } catch {
            footer = before
            throw error
        }
        header = new
    }
}
