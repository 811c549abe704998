import BlockCore

extension VmdkDriver: Resizable {
    /// Changes the size of the disk.
    ///
    /// The order of writes when growing:
    ///
    /// 1. zeroes over old data behind the end of the disk;
    /// 2. new tables, files and parts of files;
    /// 3. zeroes over backing bytes in the new space; a flush;
    /// 4. the sector with the new size: the header of a disk in one file, otherwise the descriptor.
    ///
    /// When shrinking, that sector is first; then the space behind the new end is given back. The descriptor
    /// of a disk in one file holds a second, informative size. It grows after the header and shrinks before
    /// it, so a header with a smaller size than the descriptor is damaged.
    ///
    /// - Throws: `unsupported`, `invalidArgument`, `limit`, `corrupt`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        guard virtualSize % Vmdk.sectorBytes == 0, virtualSize <= Int.max >> 10 else {
            throw BlockError(.invalidArgument, "The size must be a multiple of 512 bytes")
        }
        let growth = try session.exclusively { (state) throws(BlockError) -> VmdkGrowth? in
            guard let last = state.extents.last, state.descriptor != nil else {
                throw BlockError(.unsupported, "Disks without a descriptor cannot be resized")
            }
            // The identity must not change without a change of the disk: overlays would refuse it.
            if virtualSize == state.virtualSize {
                try keepSize(&state)
                return nil
            }
            try state.prepareChange()
            try state.commit()
            try state.settleDescriptor()
            if virtualSize > state.virtualSize { return try beginGrowth(&state, to: virtualSize) }
            if last.kindName.isEmpty {
                try shrinkSingle(&state, to: virtualSize)
            } else {
                try shrinkSplit(&state, to: virtualSize)
            }
            return nil
        }
        if let growth { try finish(growth, to: virtualSize, guest) }
    }

    /// Corrects the size in the descriptor after damage or a failure.
    private func keepSize(_ state: inout VmdkState) throws(BlockError) {
        try state.settleDescriptor()
        guard state.extents.count == 1, state.extents[0].kindName.isEmpty,
            let line = state.descriptor?.descriptor.extents.first?.extent,
            line.sectors != state.virtualSize / Vmdk.sectorBytes
        else { return }
        try state.noteSize(state.virtualSize)
    }

    // MARK: A disk in one sparse file

    private func shrinkSingle(_ state: inout VmdkState, to size: Int) throws(BlockError) {
        guard let tables = state.extents[0].tables else { return }
        try state.noteSize(size)
        do throws(BlockError) { try setCapacity(tables, size / Vmdk.sectorBytes) } catch {
            try? state.noteSize(state.virtualSize)
            throw error
        }
        state.extents[0].guest = 0..<size
        try giveBack(tables, behind: size)
    }

    /// Writes the header with another size. Durable on return.
    private func setCapacity(_ tables: VmdkGrainTables, _ sectors: Int) throws(BlockError) {
        let before = tables.header
        tables.header.capacitySectors = sectors
        do throws(BlockError) {
            try tables.storeHeader()
        } catch {
            tables.header = before
            throw error
        }
    }

    /// Drops all grains behind the end, and closes their gaps.
    private func giveBack(_ tables: VmdkGrainTables, behind size: Int) throws(BlockError) {
        try clear(tables, from: size)
        let entries = tables.header.directoryEntries
        tables.replaceDirectories(
            Array(tables.directory.prefix(entries)), tables.redundant.map { Array($0.prefix(entries)) },
            tables.header)
        tables.forgetTables()
        if try VmdkSurvey(tables).findings.count == 0 { try VmdkCompaction(tables).run() }
    }

    /// Makes everything behind `size` read as zeroes, up to the end of the existing tables.
    func clear(_ tables: VmdkGrainTables, from size: Int) throws(BlockError) {
        let whole = (size + tables.grainBytes - 1) / tables.grainBytes
        try clearTail(tables, whole - 1, from: size % tables.grainBytes)
        for number in whole
            / tables.entriesPerTable..<max(tables.directory.count, whole / tables.entriesPerTable)
        {
            guard try tables.table(number) != nil else { continue }
            let first = number * tables.entriesPerTable
            try tables.link(max(whole, first)..<first + tables.entriesPerTable) { _ in 0 }
        }
        try tables.commit()
    }

    /// Clears the part of the last grain behind the end.
    private func clearTail(_ tables: VmdkGrainTables, _ grain: Int, from inside: Int) throws(BlockError) {
        guard inside > 0, grain >= 0 else { return }
        let entry = try tables.entry(grain)
        guard tables.isPlace(entry) else { return }
        let host = try tables.hostOffset(entry)
        guard tables.header.isCompressed else {
            try tables.file.writeZeroes(at: host + inside, count: tables.grainBytes - inside)
            return try tables.file.flush()
        }
        let most = VmdkGrainCodec.maximumBytes(grainBytes: tables.grainBytes)
        let stored = try tables.file.readBytes(at: host, count: most)
        let buffer = AlignedBuffer(count: tables.grainBytes)
        var bytes = buffer.mutableBytes
        let sector = grain * tables.header.grainSectors
        try VmdkGrainCodec.decode(stored.span.bytes, into: &bytes, guestSector: sector)
        var tail = buffer.mutableBytes(inside..<buffer.count)
        if tail.bytes.isZero { return }
        tail.fill()
        let payload = try VmdkGrainCodec.encode(buffer.bytes)
        let new = VmdkGrainCodec.stored(payload.span.bytes, guestSector: sector)
        let place = try tables.allocate(new.count)
        try tables.file.write(new.bytes, at: place)
        try tables.link(grain..<grain + 1) { _ in UInt32(place / Vmdk.sectorBytes) }
    }

    // MARK: A disk in files that a descriptor lists

    static let notResizable = BlockError(
        .unsupported, "Disks with extents of this kind cannot be resized")

    /// The file of an extent, which no other extent may use.
    func onlyFile(of extent: VmdkExtent, _ state: VmdkState) throws(BlockError) -> BlockNode {
        guard let file = extent.file, state.extents.filter({ $0.file === file }).count == 1 else {
            throw Self.notResizable
        }
        return file
    }

    private func shrinkSplit(_ state: inout VmdkState, to size: Int) throws(BlockError) {
        guard var changed = state.descriptor?.descriptor else { return }
        var extents = state.extents
        var lost: [VmdkExtent] = []
        while extents.count > 1, let last = extents.last, last.guest.lowerBound >= size {
            lost.append(extents.removeLast())
            changed.removeLastExtent()
        }
        guard let last = extents.last, var line = changed.extents.last?.extent else { return }
        switch last.content {
        case .seSparse, .stream, .unopened: throw Self.notResizable
        case .sparse(let tables) where tables.header.kind == .cow: throw Self.notResizable
        case .flat: _ = try onlyFile(of: last, state)
        default: break
        }
        line.sectors = (size - last.guest.lowerBound) / Vmdk.sectorBytes
        changed.setExtent(extents.count - 1, line)
        changed.setGeometry(sectors: size / Vmdk.sectorBytes)
        try state.descriptor?.replace(with: changed)
        extents[extents.count - 1].guest = last.guest.lowerBound..<size
        let files = extents.compactMap(\.file)
        state.extents = extents
        try giveBack(last, behind: size - last.guest.lowerBound)
        // These files have no reference any more, and their contents are dropped.
        for part in lost {
            guard let file = part.file, !files.contains(where: { $0 === file }) else { continue }
            try file.resize(to: 0)
        }
    }

    private func giveBack(_ last: VmdkExtent, behind size: Int) throws(BlockError) {
        switch last.content {
        case .flat(let offset): try last.file?.resize(to: offset + size)
        case .sparse(let tables):
            try setCapacity(tables, size / Vmdk.sectorBytes)
            try giveBack(tables, behind: size)
        default: break
        }
    }
}
