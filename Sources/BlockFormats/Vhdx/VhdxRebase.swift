import BlockCore

extension VhdxDriver: Rebasable, Emptying {
    /// Changes the parent that the image names.
    ///
    /// The order of writes:
    ///
    /// 1. when the image gets its first parent: zero entries for all unallocated blocks, durable;
    /// 2. when the image loses its parent: zeroes in partial blocks over the sectors that show the parent,
    ///    which no read uses yet, and then a new BAT at another place, in which these blocks are whole;
    /// 3. one entry of the log with the flag, the locator, its entry in the metadata table, and the place of
    ///    the BAT.
    ///
    /// After a crash at any point the image shows all of its parent or nothing of it.
    ///
    /// - Throws: `unsupported` for a parent of another format; `limit`, `corrupt`, `noSpace`, `io`.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        let locator = try backing.map { (reference) throws(BlockError) in try self.locator(of: reference) }
        try session.exclusively { (state) throws(BlockError) in
            try state.beginChanges()
            if locator != nil && !state.geometry.hasParent { try state.prepareForParent() }
            try state.commit()
            if let locator { try state.change(locator) } else { try state.dropParent() }
            state.backing = backing.map { BackingReference(filename: $0.filename, format: Self.name) }
        }
    }

    /// The locator of the next parent, which is opened to read its data write GUID.
    private func locator(of reference: BackingReference) throws(BlockError) -> VhdxParentLocator {
        guard reference.format == nil || reference.format == Self.name else {
            throw BlockError(
                .unsupported,
                "The backing file of a VHDX image is a VHDX image, not '\(reference.format ?? "")'",
                path: file.filename)
        }
        let node = try request.openBacking(reference)
        defer { try? node.close() }
        return try VhdxParentLocator.make(
            linkage: Self.linkage(to: node), filename: reference.filename)
    }

    /// The parent holds the same data, so the disk reads as before.
    ///
    /// - Throws: `unsupported`, `noSpace`, `io`.
    public func makeEmpty() throws(BlockError) {
        try session.exclusively { (state) throws(BlockError) in
            guard !state.metadata.leavesBlocksAllocated else {
                throw BlockError(.unsupported, "A fixed VHDX image cannot be emptied")
            }
            try state.beginChanges()
            var none = state.geometry
            none.virtualSize = 0
            try state.clearEntries(of: state.geometry, butNotOf: none)
            try state.commit()
        }
    }
}

extension VhdxDriver: ContentIdentifying {
    /// - Throws: `unsupported`, `limit`, `corrupt`, `noSpace`, `io`.
    public func announceIdentity(of backing: BlockNode) throws(BlockError) {
        let (now, next) = try Self.identities(of: backing)
        try link(to: now == next ? [now] : [now, next])
    }

    /// - Throws: `noSpace`, `io`, `unsupported`.
    public func renewIdentity() throws(BlockError) {
        try session.withLock { (state) throws(BlockError) in try state.beginDataChanges() }
    }

    /// - Throws: `unsupported`, `limit`, `corrupt`, `noSpace`, `io`.
    public func adoptIdentity(of backing: BlockNode) throws(BlockError) {
        guard let now = backing.parentIdentity(of: Self.name) else { throw Self.isNoParent(backing) }
        try link(to: [ImageUUID(bytes: now)])
    }

    public func keepIdentity(_ isKept: Bool) { session.withLock { $0.keepsIdentity = isKept } }

    /// Writes the valid GUIDs of the parent to the locator, in one entry of the log.
    private func link(to linkages: [ImageUUID]) throws(BlockError) {
        try session.exclusively { (state) throws(BlockError) in
            guard state.geometry.hasParent else { return }
            var locator = try state.parentLocator()
            guard locator.linkages != linkages else { return }
            locator.linkages = linkages
            try state.beginChanges()
            try state.commit()
            try state.change(locator)
        }
    }
}

extension VhdxState {
    fileprivate mutating func dropParent() throws(BlockError) {
        guard geometry.hasParent else { return }
        let before = geometry
        if try zeroAbsentSectors() {
            try dropParentAndBitmaps()
        } else {
            try log(try pages(changing: try metadata.changes(to: nil, view, region: metadataRange)))
        }
        try readMetadata()
        // A failure is ignored: bitmaps that stay only cost space.
        try? clearBitmaps(before)
        try? commit()
    }

    /// Zeroes the sectors of partial blocks that show the parent.
    ///
    /// - Returns: whether there are such blocks.
    private mutating func zeroAbsentSectors() throws(BlockError) -> Bool {
        var isPartial = false
        for block in 0..<geometry.blockCount {
            let entry = try entry(ofBlock: block)
            guard case .partial(let host) = try kind(entry, block: block) else { continue }
            isPartial = true
            let start = block * geometry.blockBytes
            let end = start + geometry.bytes(ofBlock: block)
            var offset = start
            while offset < end {
                let run = try mapped(at: offset, limit: end - offset)
                if run.status == .unallocated {
                    try file.writeZeroes(at: host + offset - start, count: run.length)
                }
                offset += run.length
            }
        }
        return isPartial
    }

    /// Replaces the BAT by one in which all blocks are whole, and removes the parent, atomically.
    private mutating func dropParentAndBitmaps() throws(BlockError) {
        let changes = try metadata.changes(to: nil, view, region: metadataRange)
        var unused: [Range<Int>] = []
        try moveTable(batRange.count, with: changes) { (state, index) throws(BlockError) in
            guard state.geometry.hasEntry(index) else { return 0 }
            let entry = try state.table.entry(index, state.view)
            guard state.geometry.block(ofEntry: index) == nil else {
                let isPartial = Vhdx.state(of: entry) == .partiallyPresent
                return isPartial ? entry & ~Vhdx.stateMask | Vhdx.BlockState.fullyPresent.rawValue : entry
            }
            if entry & Vhdx.stateMask == Vhdx.bitmapPresent, let offset = Vhdx.offset(of: entry) {
                unused.append(offset..<offset + Vhdx.unitBytes)
            }
            return 0
        }
        for range in unused { release(range) }
    }

    /// Sets the zero entries of all unallocated blocks, and makes room in the BAT for the entries of bitmaps.
    fileprivate mutating func prepareForParent() throws(BlockError) {
        var next = geometry
        next.hasParent = true
        guard next.entryCount * 8 <= batRange.count else {
            throw BlockError(
                .unsupported, "The BAT of the VHDX image has no room for sector bitmaps", path: file.filename)
        }
        for index in 0..<next.entryCount {
            if table.isCrowded { try commit() }
            if let block = geometry.block(ofEntry: index), block < geometry.blockCount {
                let entry = try table.entry(index, view)
                guard Vhdx.state(of: entry) == .notPresent else { continue }
                try table.set(index, to: Vhdx.zeroEntry, view)
            } else if try table.entry(index, view) != 0 {
                try table.set(index, to: 0, view)
            }
        }
    }

    /// Changes the parent in the metadata, atomically.
    fileprivate mutating func change(_ locator: VhdxParentLocator) throws(BlockError) {
        try settle()
        let changes = try metadata.changes(to: locator.serialised(), view, region: metadataRange)
        try log(try pages(changing: changes))
        try readMetadata()
    }

    private mutating func readMetadata() throws(BlockError) {
        try settle()
        metadata = try VhdxMetadata(view, region: metadataRange)
        bitmaps = VhdxBitmapCache()
    }

    private mutating func clearBitmaps(_ geometry: VhdxGeometry) throws(BlockError) {
        for block in stride(from: 0, to: geometry.blockCount, by: geometry.blocksPerChunk) {
            let index = geometry.bitmapIndex(forBlock: block)
            let entry = try table.entry(index, view)
            guard entry != 0 else { continue }
            if table.isCrowded { try commit() }
            try table.set(index, to: 0, view)
            if entry & Vhdx.stateMask == Vhdx.bitmapPresent, let offset = Vhdx.offset(of: entry) {
                release(offset..<offset + Vhdx.unitBytes)
            }
        }
    }
}

extension VhdxMetadata {
    /// The changes of the metadata that set another parent locator, or none.
    ///
    /// - Throws: `limit` when the region has no room for it.
    func changes(
        to locator: [UInt8]?, _ view: VhdxView, region: Range<Int>
    ) throws(BlockError) -> [VhdxState.Change] {
        guard let parameters = place(of: Vhdx.Item.fileParameters) else { return [] }
        let flags = VhdxFileParameters.flagsField
        let changed = VhdxFileParameters(
            leavesBlocksAllocated: leavesBlocksAllocated, hasParent: locator != nil
        ).serialised()
        var changes: [VhdxState.Change] = [
            (parameters.range.lowerBound + flags.offset, Array(changed[flags.range]))
        ]
        guard let locator else { return try changes + removingLocator(view, region) }
        let target = (otherItemsEnd + 7) / 8 * 8
        guard target + locator.count <= region.upperBound else {
            throw BlockError(.limit, "The metadata of the VHDX image have no room for a parent's name")
        }
        changes.append((target, locator))
        let known = place(of: Vhdx.Item.parentLocator)
        guard known != nil || entryCount < Vhdx.Limit.tableEntries else {
            throw BlockError(.limit, "The metadata table of the VHDX image is full")
        }
        let entry = VhdxMetadataEntry(
            guid: Vhdx.Item.parentLocator, offset: target - region.lowerBound, length: locator.count,
            flags: VhdxMetadataEntry.requiredFlag)
        changes.append(
            (known?.entryOffset ?? Self.entryOffset(entryCount, region), entry.serialised()))
        if known == nil { changes.append(Self.countChange(entryCount + 1, region)) }
        return changes
    }

    /// The changes that remove the locator: the last entry of the table replaces its entry.
    private func removingLocator(
        _ view: VhdxView, _ region: Range<Int>
    ) throws(BlockError) -> [VhdxState.Change] {
        guard let known = place(of: Vhdx.Item.parentLocator), entryCount > 0 else { return [] }
        let last = Self.entryOffset(entryCount - 1, region)
        return [
            (known.entryOffset, try view.read(at: last, count: VhdxMetadataEntry.byteCount)),
            (last, [UInt8](repeating: 0, count: VhdxMetadataEntry.byteCount)),
            Self.countChange(entryCount - 1, region),
        ]
    }

    private static func entryOffset(_ index: Int, _ region: Range<Int>) -> Int {
        region.lowerBound + VhdxMetadataTable.entryOffset(index)
    }

    private static func countChange(_ count: Int, _ region: Range<Int>) -> VhdxState.Change {
        let field = VhdxMetadataTable.countField
        let table = VhdxMetadataTable(entryCount: count).fieldBytes(count: field.range.upperBound)
        return (region.lowerBound + field.offset, Array(table[field.range]))
    }
}
