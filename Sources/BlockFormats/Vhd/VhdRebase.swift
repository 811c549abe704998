import BlockCore

extension VhdDriver: Rebasable {
    /// The order of writes. Where the disk gets a parent, its bitmaps first say that blocks are whole, as
    /// they are. Where it loses its parent, zeroes go first where that shows in stored blocks, which nobody
    /// reads yet; the bitmaps follow when the parent is gone and say the same. The names go where the
    /// header does not refer to, and a copy of the new header to free space; a flush. The footers then
    /// refer to it, in one sector each: either header is good. At last the header goes back to its usual
    /// place, and the footers with it. Stopped anywhere, the disk shows all of its parent, or nothing of
    /// it.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        guard case .dynamic(let state) = body else {
            throw BlockError(.unsupported, "A fixed VHD image has no backing file", path: file.filename)
        }
        let parent = try backing.map { (reference) throws(BlockError) in try identify(reference) }
        try exclusively(state) { (state) throws(BlockError) in
            try state.commit()
            let wasDifferencing = state.isDifferencing
            if parent == nil { try state.zeroAbsentSectors() }
            if parent != nil && !wasDifferencing { try state.fillBitmaps() }
            try state.setParent(parent, of: file.filename)
            // Without a parent, what this leaves undone is done with the next write to the block.
            if parent == nil && wasDifferencing { try? state.fillBitmaps() }
        }
        setBacking(parent.map { BackingReference(filename: $0.path, format: Self.name) })
    }

    private func identify(_ reference: BackingReference) throws(BlockError) -> VhdParent {
        let path = try VhdParent.path(of: reference)
        var parent = VhdParent(uuid: VhdParent.unknown, time: 0, path: path)
        let node: BlockNode
        do throws(BlockError) {
            node = try request.openBacking(BackingReference(filename: path, format: Self.name))
        } catch {
            // Who asks for the reference alone may name a file that is not there yet.
            if request.settings.withoutBacking, error.kind == .notFound { return parent }
            throw error
        }
        if let driver = node.unfiltered.format as? VhdDriver {
            parent.uuid = driver.footer.uuid
            parent.time = driver.footer.time
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
    /// Zeroes what lies where the parent shows in stored blocks. Durable on return.
    fileprivate mutating func zeroAbsentSectors() throws(BlockError) {
        guard isDifferencing else { return }
        let sectors = header.blockBytes / Vhd.sectorBytes
        for block in 0..<table.count {
            guard let place = place(of: block) else { continue }
            var first = 0
            while first < sectors {
                let run = try run(at: place, first, sectors)
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

    /// Makes the bitmaps of stored blocks say that all sectors are there.
    fileprivate mutating func fillBitmaps() throws(BlockError) {
        for block in 0..<table.count {
            guard let place = place(of: block) else { continue }
            try mark(place, 0..<header.blockBytes / Vhd.sectorBytes)
        }
        try commit()
    }

    fileprivate mutating func setParent(_ parent: VhdParent?, of filename: String) throws(BlockError) {
        var new = header
        let survey = try survey()
        let spellings = parent?.spellings(from: filename) ?? []
        let length = VhdNames(spellings, at: 0).end
        let names = VhdNames(spellings, at: survey.place(forDescriptions: length))
        new.setParent(parent, names.locators)
        // The new header waits behind everything else.
        new.offset = max(survey.end.roundedUp(to: Vhd.sectorBytes) ?? survey.end, names.end, nextFree)
        spare = VhdSpareBlocks()
        nextFree = new.range.upperBound
        if nextFree > footerOffset ?? 0 { try moveFooter(to: nextFree) }
        try names.write(to: file)
        try switchHeader(to: new, parent == nil ? .dynamic : .differencing)
        // From here on the parent is changed; what fails leaves the header where it is.
        new.offset = Vhd.usualHeaderOffset
        let usual = new.range
        if !VhdSurvey.metadata(of: new).contains(where: { $0 != usual && $0.overlaps(usual) }) {
            do throws(BlockError) { try switchHeader(to: new, footer.type) } catch {}
        }
        adopt(try self.survey())
        trim()
    }

    /// Writes a header where no footer refers to, then makes the footers refer to it.
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
