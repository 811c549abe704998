import BlockCore

extension VmdkDriver: Resizable {
    /// The order of writes. Growing: what lay behind the end of a larger disk is cleared; new tables, files
    /// and parts of files; a flush; then the one sector that makes the new size true: the header of a disk in
    /// one file, else the descriptor. Shrinking: that sector first; then what it cut off is given back. A
    /// disk in one file states its size in the descriptor as well, which comes last and does not count.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, old: any GuestReader
    ) throws(BlockError) {
        guard preallocation == .off else {
            throw BlockError(.unsupported, "Unsupported preallocation mode '\(preallocation.rawValue)'")
        }
        guard virtualSize % Vmdk.sectorBytes == 0, virtualSize <= Int.max >> 10 else {
            throw BlockError(.invalidArgument, "The size must be a multiple of 512 bytes")
        }
        try exclusively { (state) throws(BlockError) in
            guard let store = state.descriptor, let last = state.extents.last else {
                throw BlockError(.unsupported, "Disks without a descriptor cannot be resized")
            }
            try state.prepareChange(nextCID)
            try state.commit()
            if last.kindName.isEmpty {
                try resizeSingle(&state, store.descriptor, to: virtualSize)
            } else if virtualSize > state.virtualSize {
                try growSplit(&state, to: virtualSize)
            } else {
                try shrinkSplit(&state, to: virtualSize)
            }
        }
        setVirtualSize(virtualSize)
    }

    // MARK: A disk in one sparse file

    private func resizeSingle(
        _ state: inout VmdkState, _ descriptor: VmdkDescriptor, to size: Int
    ) throws(BlockError) {
        guard let tables = state.extents[0].tables else { return }
        let (sectors, before) = (size / Vmdk.sectorBytes, state.extents[0].guest.count)
        if size > before { try grow(tables, to: sectors) } else { try setCapacity(tables, sectors) }
        state.extents[0].guest = 0..<size
        // The descriptor's own room is in the header that was just written.
        var changed = state.descriptor?.descriptor ?? descriptor
        if var line = changed.extents.first?.extent {
            line.sectors = sectors
            changed.setExtent(0, line)
            try state.descriptor?.replace(with: changed)
        }
        if size < before { try giveBack(tables, behind: size) }
    }

    /// Writes the header with another size. Durable on return.
    private func setCapacity(_ tables: VmdkGrainTables, _ sectors: Int) throws(BlockError) {
        let before = tables.header
        tables.header.capacitySectors = sectors
        do throws(BlockError) {
            try tables.writeHeader()
            try tables.file.flush()
        } catch {
            tables.header = before
            throw error
        }
    }

    /// Drops all grains behind the end, and closes the gaps that they leave.
    private func giveBack(_ tables: VmdkGrainTables, behind size: Int) throws(BlockError) {
        try clear(tables, from: size)
        let entries = tables.header.directoryEntries
        tables.replaceDirectories(
            Array(tables.directory.prefix(entries)), tables.redundant.map { Array($0.prefix(entries)) },
            tables.header)
        tables.forgetTables()
        if try VmdkSurvey(tables).findingCount == 0 { try VmdkCompaction(tables).run() }
    }

    /// Makes everything behind `size` read as zeroes, up to the end of the tables that there are.
    private func clear(_ tables: VmdkGrainTables, from size: Int) throws(BlockError) {
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

    /// The part of the last grain behind the end.
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

    /// Makes a sparse extent larger, with all the tables that it then needs.
    private func grow(_ tables: VmdkGrainTables, to sectors: Int) throws(BlockError) {
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
            try tables.writeHeader()
            try tables.file.flush()
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

    /// Parts are as large as the first where there are several.
    private func partSectors(_ extents: [VmdkExtent]) -> Int {
        (extents.count > 1 ? extents[0].guest.count : Vmdk.splitBytes) / Vmdk.sectorBytes
    }

    private func growSplit(_ state: inout VmdkState, to size: Int) throws(BlockError) {
        guard var changed = state.descriptor?.descriptor, let last = state.extents.last,
            var line = changed.extents.last?.extent
        else { return }
        let isSplit = changed.createType.lowercased().hasPrefix("twogbmaxextent")
        let most = isSplit ? partSectors(state.extents) : Int.max
        var left = (size - last.guest.lowerBound) / Vmdk.sectorBytes
        line.sectors = max(line.sectors, min(left, most))
        left -= line.sectors
        var extents = state.extents
        try growLast(last, to: line.sectors, state)
        changed.setExtent(extents.count - 1, line)
        let start = last.guest.lowerBound
        extents[extents.count - 1].guest = start..<start + line.sectors * Vmdk.sectorBytes
        var made: [BlockNode] = []
        do throws(BlockError) {
            while left > 0 {
                let part = try makePart(extents, min(left, most), like: line.kind)
                if let file = part.file { made.append(file) }
                left -= part.guest.count / Vmdk.sectorBytes
                changed.appendExtent(
                    VmdkExtentLine(
                        sectors: part.guest.count / Vmdk.sectorBytes, kind: line.kind,
                        filename: FileNames.lastComponent(part.filename),
                        offset: line.kind.isFlat ? 0 : nil))
                extents.append(part)
            }
            try state.descriptor?.replace(with: changed)
        } catch {
            for file in made { try? file.close() }
            throw error
        }
        state.ownFiles += made
        state.extents = extents
    }

    private func growLast(_ last: VmdkExtent, to sectors: Int, _ state: VmdkState) throws(BlockError) {
        guard sectors * Vmdk.sectorBytes > last.guest.count else { return }
        switch last.content {
        case .zero: break
        case .flat(let offset):
            let file = try onlyFile(of: last, state)
            // What lies behind the end is not ours to show.
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

    private static let notResizable = BlockError(
        .unsupported, "Disks with extents of this kind cannot be resized")

    /// The file of an extent, which must be in no other.
    private func onlyFile(of extent: VmdkExtent, _ state: VmdkState) throws(BlockError) -> BlockNode {
        guard let file = extent.file, state.extents.filter({ $0.file === file }).count == 1 else {
            throw Self.notResizable
        }
        return file
    }

    /// A new file for the next part of the disk.
    private func makePart(
        _ extents: [VmdkExtent], _ sectors: Int, like kind: VmdkExtentLine.Kind
    ) throws(BlockError) -> VmdkExtent {
        guard extents.count < Vmdk.Limit.extents, let request, kind == .sparse || kind == .flat else {
            throw BlockError(.limit, "The disk cannot have more parts")
        }
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
            try? made.close()
            throw error
        }
        extent.file = made
        return extent
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
        try state.descriptor?.replace(with: changed)
        extents[extents.count - 1].guest = last.guest.lowerBound..<size
        let files = extents.compactMap(\.file)
        state.extents = extents
        try giveBack(last, behind: size - last.guest.lowerBound)
        // Nothing names these files any more; there is nothing in them either.
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
