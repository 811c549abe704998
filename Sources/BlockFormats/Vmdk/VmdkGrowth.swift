import BlockCore

/// A growth in progress: the disk is larger in memory, but not yet in the file.
struct VmdkGrowth {
    /// The extents before the growth.
    let extents: [VmdkExtent]
    /// The tables of a disk in one file, and their layout before.
    var single: (tables: VmdkGrainTables, before: VmdkGrainTables.Layout)?
    /// The descriptor with the new size, if the disk is in several files.
    var descriptor: VmdkDescriptor?
    /// New files.
    var made: [BlockNode] = []
}

extension VmdkDriver {
    /// Makes the tables and files for a larger disk.
    func beginGrowth(_ state: inout VmdkState, to size: Int) throws(BlockError) -> VmdkGrowth {
        var growth = VmdkGrowth(extents: state.extents)
        if state.extents[0].kindName.isEmpty, let tables = state.extents[0].tables {
            growth.single = (tables, tables.layout)
            try extend(tables, to: size / Vmdk.sectorBytes)
            state.extents[0].guest = 0..<size
        } else {
            try growSplit(&state, to: size, &growth)
        }
        state.shareTableMemory()
        state.sizeBeforeGrowth = growth.extents.last?.guest.upperBound
        return growth
    }

    /// Zeroes old data and backing bytes in the new space, and writes the new size.
    func finish(_ growth: VmdkGrowth, to size: Int, _ guest: GuestAccess) throws(BlockError) {
        let before = growth.extents.last?.guest.upperBound ?? 0
        let tail = before..<min(size, before.roundedUp(to: writeGranularity) ?? before)
        do throws(BlockError) {
            // The disk's own old data is cleared already.
            if guest.hasBacking(in: tail) { try guest.clearTail(tail) }
            try guest.hideBacking(before..<size)
        } catch {
            try session.exclusively { (state) throws(BlockError) in undo(growth, &state) }
            throw error
        }
        try session.exclusively { (state) throws(BlockError) in
            do throws(BlockError) {
                try state.commit()
                try growth.single?.tables.storeHeader()
            } catch {
                undo(growth, &state)
                throw error
            }
            state.sizeBeforeGrowth = nil
            if growth.single != nil { return try state.noteSize(size) }
            try complete(growth, &state)
        }
    }

    /// Writes the descriptor with the parts of a larger disk. After a failure the file may have either text,
    /// so the parts are given up only once the old text is durable again.
    private func complete(_ growth: VmdkGrowth, _ state: inout VmdkState) throws(BlockError) {
        guard let changed = growth.descriptor else { return }
        do throws(BlockError) { try state.descriptor?.replace(with: changed) } catch {
            state.extents = growth.extents
            state.suspectFiles += growth.made
            try? state.settleDescriptor()
            throw error
        }
        state.ownFiles += growth.made
    }

    private func undo(_ growth: VmdkGrowth, _ state: inout VmdkState) {
        growth.single?.tables.restore(growth.single?.before)
        state.extents = growth.extents
        state.sizeBeforeGrowth = nil
        VmdkState.abandon(growth.made)
    }

    // MARK: Sparse extents

    /// Makes all tables that a larger disk needs in a sparse extent. They are durable; the header refers to
    /// them in memory, but not yet in the file.
    private func extend(_ tables: VmdkGrainTables, to sectors: Int) throws(BlockError) {
        let before = tables.header
        try clear(tables, from: before.capacityBytes)
        var header = before
        header.capacitySectors = sectors
        guard header.directoryEntries <= Vmdk.Limit.directoryEntries else {
            throw BlockError(.limit, "The disk would be too large for a sparse VMDK image")
        }
        let (directory, redundant) = (tables.directory, tables.redundant)
        do throws(BlockError) {
            let primary = try extended(directory, header, tables)
            let copy = try redundant.map { old throws(BlockError) in try extended(old, header, tables) }
            if header.directoryBytes > before.directoryBytes {
                header.directoryOffset = try tables.allocate(header.directoryBytes)
                if copy != nil {
                    header.redundantDirectoryOffset = try tables.allocate(header.directoryBytes)
                }
            }
            try writeDirectory(primary, at: header.directoryOffset, header, tables)
            if let copy, let offset = header.redundantDirectoryOffset {
                try writeDirectory(copy, at: offset, header, tables)
            }
            try tables.file.flush()
            tables.replaceDirectories(primary, copy, header)
        } catch {
            tables.replaceDirectories(directory, redundant, before)
            throw error
        }
    }

    /// A directory with empty tables for the rest of the larger disk.
    private func extended(
        _ directory: [UInt32], _ header: VmdkSparseHeader, _ tables: VmdkGrainTables
    ) throws(BlockError) -> [UInt32] {
        let count = header.directoryEntries - directory.count
        guard count > 0 else { return directory }
        let place = try tables.allocate(count * header.tableBytes)
        try tables.file.writeZeroes(at: place, count: count * header.tableBytes)
        let first = place / Vmdk.sectorBytes
        return directory + (0..<count).map { UInt32(first + $0 * header.tableSectors) }
    }

    private func writeDirectory(
        _ directory: [UInt32], at offset: Int, _ header: VmdkSparseHeader, _ tables: VmdkGrainTables
    ) throws(BlockError) {
        var bytes = VmdkGrainTables.bytes(directory)
        bytes += [UInt8](repeating: 0, count: header.directoryBytes - bytes.count)
        try tables.file.write(bytes.span.bytes, at: offset)
    }

    // MARK: A disk in files that a descriptor lists

    /// The size of a part, in sectors: that of the first if there are several.
    private func partSectors(_ extents: [VmdkExtent]) -> Int {
        let first = extents[0].guest.count
        return (extents.count > 1 && first > 0 ? first : Vmdk.splitBytes) / Vmdk.sectorBytes
    }

    private func growSplit(
        _ state: inout VmdkState, to size: Int, _ growth: inout VmdkGrowth
    ) throws(BlockError) {
        guard var changed = state.descriptor?.descriptor, let last = state.extents.last,
            var line = changed.extents.last?.extent
        else { return }
        let isSplit = changed.createType.lowercased().hasPrefix("twogbmaxextent")
        let most = isSplit ? partSectors(state.extents) : Int.max
        let wanted = (size - last.guest.lowerBound) / Vmdk.sectorBytes
        line.sectors = max(line.sectors, min(wanted, most))
        let left = wanted - line.sectors
        guard left <= 0 || (left - 1) / most < Vmdk.Limit.extents - state.extents.count else {
            throw BlockError(.limit, "The disk cannot have more than \(Vmdk.Limit.extents) parts")
        }
        try growLast(last, to: line.sectors, state)
        changed.setExtent(state.extents.count - 1, line)
        var extents = state.extents
        let start = last.guest.lowerBound
        extents[extents.count - 1].guest = start..<start + line.sectors * Vmdk.sectorBytes
        do throws(BlockError) {
            try addParts(&extents, left, most, like: line.kind, &changed, &growth.made)
        } catch {
            VmdkState.abandon(growth.made)
            throw error
        }
        changed.setGeometry(sectors: size / Vmdk.sectorBytes)
        growth.descriptor = changed
        state.extents = extents
    }

    /// Makes parts of at most `most` sectors for `sectors` more, and their lines.
    private func addParts(
        _ extents: inout [VmdkExtent], _ sectors: Int, _ most: Int, like kind: VmdkExtentLine.Kind,
        _ descriptor: inout VmdkDescriptor, _ made: inout [BlockNode]
    ) throws(BlockError) {
        var left = sectors
        while left > 0 {
            let part = try makePart(extents, min(left, most), like: kind)
            if let file = part.file { made.append(file) }
            let count = part.guest.count / Vmdk.sectorBytes
            left -= count
            descriptor.appendExtent(
                VmdkExtentLine(
                    sectors: count, kind: kind, filename: FileNames.lastComponent(part.filename),
                    offset: kind.isFlat ? 0 : nil))
            extents.append(part)
        }
    }

    private func growLast(_ last: VmdkExtent, to sectors: Int, _ state: VmdkState) throws(BlockError) {
        guard sectors * Vmdk.sectorBytes > last.guest.count else { return }
        switch last.content {
        case .zero: break
        case .flat(let offset):
            let file = try onlyFile(of: last, state)
            // Cuts bytes behind the end first, so that they do not become part of the disk.
            try file.resize(to: offset + last.guest.count)
            try file.resize(to: offset + sectors * Vmdk.sectorBytes)
            try file.flush()
        case .sparse(let tables):
            guard tables.header.kind == .hosted else { throw Self.notResizable }
            try clear(tables, from: last.guest.count)
            if tables.header.capacitySectors < sectors { try grow(tables, to: sectors) }
        case .seSparse, .stream, .unopened: throw Self.notResizable
        }
    }

    /// Makes an extent larger whose size the descriptor defines, not its header.
    private func grow(_ tables: VmdkGrainTables, to sectors: Int) throws(BlockError) {
        let before = tables.layout
        try extend(tables, to: sectors)
        do throws(BlockError) { try tables.storeHeader() } catch {
            tables.restore(before)
            throw error
        }
    }

    /// A new file for the next part of the disk.
    private func makePart(
        _ extents: [VmdkExtent], _ sectors: Int, like kind: VmdkExtentLine.Kind
    ) throws(BlockError) -> VmdkExtent {
        guard let request, kind == .sparse || kind == .flat else { throw Self.notResizable }
        let subformat: Vmdk.Subformat = kind == .flat ? .twoGbMaxExtentFlat : .twoGbMaxExtentSparse
        let part = VmdkPlan.part(extents.count + 1, sectors, of: file.filename, subformat)
        let start = extents.last?.guest.upperBound ?? 0
        var extent = VmdkExtent(
            guest: start..<start + sectors * Vmdk.sectorBytes, content: .flat(hostOffset: 0),
            filename: part.path, kindName: kind.rawValue)
        let made = try request.createFurtherFile(part.name, purpose: .extent)
        do throws(BlockError) {
            if kind == .flat {
                try made.resize(to: sectors * Vmdk.sectorBytes)
                try made.flush()
            } else {
                let header = Self.partHeader(sectors, like: extents.last?.tables?.header)
                try Self.writeTables(header, made)
                try made.flush()
                try Self.writeHeader(header, made)
                extent.content = .sparse(try VmdkGrainTables(file: made, header: header))
            }
        } catch {
            VmdkState.abandon([made])
            throw error
        }
        extent.file = made
        return extent
    }
}

extension VmdkDriver {
    /// The header of a new part of a split disk whose other parts are like `model`.
    fileprivate static func partHeader(_ sectors: Int, like model: VmdkSparseHeader?) -> VmdkSparseHeader {
        var header = VmdkSparseHeader(
            capacitySectors: sectors, bytes: [UInt8](repeating: 0, count: VmdkSparseHeader.hostedBytes))
        header.flags |= Vmdk.Flag.redundantTables
        if let model {
            header.version = model.version
            header.flags |= model.flags & Vmdk.Flag.zeroedGrains
            header.grainSectors = model.grainSectors
            header.tableEntries = model.tableEntries
        }
        header.placeTables()
        return header
    }
}
