import BlockCore

/// Opens the files of an image and assembles its extents.
struct VmdkOpening {
    let request: OpenRequest
    private var children = 0
    /// The flat files by name: one file may hold several extents.
    private var flatFiles: [[UInt8]: (node: BlockNode, child: Int)] = [:]
    /// The entries that the directories of further extents may still have.
    private var directoryEntriesLeft = Vmdk.Limit.directoryEntries

    init(_ request: OpenRequest) { self.request = request }

    private var file: BlockNode { request.file }
    private var name: String { FileNames.lastComponent(file.filename) }

    mutating func open(_ options: inout OptionTree) throws(BlockError) -> VmdkState {
        let length = try file.length()
        let first = try file.readBytes(at: 0, count: max(0, min(DriverRegistry.probeBytes, length)))
        let span = first.span.bytes
        let state: VmdkState
        if span.littleEndian(UInt32.self, at: 0) == Vmdk.sparseMagic {
            state = try openHosted(first, &options)
        } else if span.littleEndian(UInt32.self, at: 0) == Vmdk.cowMagic {
            let extent = try sparseExtent(file, child: 0, guestStart: 0, sectors: nil, name: file.filename)
            state = VmdkState(descriptor: nil, extents: [extent], isReadOnly: request.settings.readOnly)
        } else if span.littleEndian(UInt64.self, at: 0) == Vmdk.seSparseMagic {
            throw isPart()
        } else if let store = try VmdkDescriptorStore(file: file, offset: 0, room: nil) {
            state = try openDescribed(store, &options)
        } else if [[0xFF, 0xFE], [0xFE, 0xFF]].contains(Array(first.prefix(2))) {
            throw BlockError(
                .wrongFormat,
                "invalid VMDK image descriptor",
                hint: "'\(name)' is text in UTF-16; a descriptor is in UTF-8 or an 8-bit character set.")
        } else {
            throw BlockError(
                .wrongFormat,
                length == 0 ? "File is too small, not a valid image" : "invalid VMDK image descriptor",
                hint: "'\(name)' is neither a descriptor nor a sparse extent of a VMDK image. Where it has "
                    + "the bytes of a flat disk, open the descriptor that names it.")
        }
        if !request.settings.readOnly { try Self.checkWritable(state) }
        state.shareTableMemory()
        return state
    }

    private func isPart() -> BlockError {
        BlockError(
            .wrongFormat,
            "'\(name)' is a part of a VMDK disk, not the whole: open the descriptor file that lists it")
    }

    // MARK: A sparse extent with its descriptor inside

    private mutating func openHosted(
        _ first: [UInt8], _ options: inout OptionTree
    ) throws(BlockError) -> VmdkState {
        let header = try VmdkSparseHeader.parse(Array(first.prefix(VmdkSparseHeader.hostedBytes)))
        guard header.descriptorOffset > 0, header.descriptorBytes > 0,
            let store = try VmdkDescriptorStore(
                file: file, offset: header.descriptorOffset, room: header.descriptorBytes)
        else { throw isPart() }
        let listed = store.descriptor.extents.map(\.extent.sectors)
        if header.capacitySectors == 0 && listed.contains(where: { $0 > 0 }) || listed.count > 1 {
            return try openDescribed(store, &options)
        }
        var extent = try sparseExtent(file, child: 0, guestStart: 0, sectors: nil, name: file.filename)
        extent.kindName = ""
        return VmdkState(descriptor: store, extents: [extent], isReadOnly: request.settings.readOnly)
    }

    /// - Parameter sectors: the size in the descriptor; `nil` when only the header has one.
    private mutating func sparseExtent(
        _ file: BlockNode, child: Int, guestStart: Int, sectors: Int?, name: String
    ) throws(BlockError) -> VmdkExtent {
        do throws(BlockError) {
            let bytes = try file.readBytes(
                at: 0, count: max(0, min(VmdkSparseHeader.hostedBytes, try file.length())))
            let header = try Self.effectiveHeader(VmdkSparseHeader.parse(bytes), file)
            let size = (sectors ?? header.capacitySectors) * Vmdk.sectorBytes
            guard header.capacityBytes >= size else {
                throw BlockError(
                    .corrupt,
                    "The extent has \(header.capacitySectors) sectors, and the descriptor says "
                        + "\(sectors ?? 0)")
            }
            try takeDirectory(header.directoryEntries)
            let tables = try VmdkGrainTables(
                file: file, header: header, forCheck: request.settings.forCheck)
            if !request.settings.metadataOnly && !request.settings.forCheck { try tables.checkRepeats() }
            return VmdkExtent(
                guest: guestStart..<guestStart + size, content: .sparse(tables), file: file, child: child,
                filename: name, kindName: header.kind == .cow ? "VMFSSPARSE" : "SPARSE")
        } catch {
            throw error.concerning(file.filename)
        }
    }

    /// - Throws: `limit` when the directories of all extents together are too large.
    private mutating func takeDirectory(_ entries: Int) throws(BlockError) {
        guard entries <= directoryEntriesLeft else {
            throw BlockError(.limit, "The grain directories of the disk are too large together")
        }
        directoryEntriesLeft -= entries
    }

    /// The header; or the footer, if the header refers to it: the last sector but one, with a marker before
    /// it.
    private static func effectiveHeader(
        _ header: VmdkSparseHeader, _ file: BlockNode
    ) throws(BlockError) -> VmdkSparseHeader {
        guard header.isAtEnd else { return header }
        let length = try file.length()
        let start = max(0, length - 3 * Vmdk.sectorBytes)
        let bytes = try file.readBytes(at: start, count: length - start)
        let type = Vmdk.Marker.typeField.number(in: bytes)
        guard bytes.count == 3 * Vmdk.sectorBytes, type == UInt64(Vmdk.Marker.footer) else {
            throw BlockError(
                .corrupt, "Invalid footer",
                hint: "The image has none: it was not written or copied to its end.")
        }
        var footer = try VmdkSparseHeader.parse(Array(bytes[Vmdk.sectorBytes..<2 * Vmdk.sectorBytes]))
        guard !footer.isAtEnd, footer.capacitySectors == header.capacitySectors,
            footer.grainSectors == header.grainSectors
        else { throw BlockError(.corrupt, "The footer does not fit the header") }
        footer.descriptorOffset = header.descriptorOffset
        footer.descriptorBytes = header.descriptorBytes
        footer.isAtEnd = true
        return footer
    }

    // MARK: Files that a descriptor names

    private mutating func openDescribed(
        _ store: VmdkDescriptorStore, _ options: inout OptionTree
    ) throws(BlockError) -> VmdkState {
        var extents: [VmdkExtent] = []
        guard !store.descriptor.extents.isEmpty else {
            throw BlockError(.corrupt, "The descriptor lists no extents")
        }
        var start = 0
        for (index, entry) in store.descriptor.extents.enumerated() {
            let others = store.descriptor.otherSpellings(of: entry.extent.filename)
            let extent = try openExtent(entry.extent, others, index, start, &options)
            extents.append(extent)
            let (end, overflow) = start.addingReportingOverflow(extent.guest.count)
            guard !overflow, end <= Int.max >> 10 else {
                throw BlockError(.corrupt, "The extents are too large together")
            }
            start = end
        }
        return VmdkState(descriptor: store, extents: extents, isReadOnly: request.settings.readOnly)
    }

    private mutating func openExtent(
        _ line: VmdkExtentLine, _ otherNames: [String], _ index: Int, _ start: Int,
        _ options: inout OptionTree
    ) throws(BlockError) -> VmdkExtent {
        let range = start..<start + line.sectors * Vmdk.sectorBytes
        var extent = VmdkExtent(
            guest: range, content: .zero, filename: line.filename, kindName: line.kind.rawValue)
        if line.kind == .zero { return extent }
        extent.filename = FileNames.resolve(line.filename, relativeTo: file.filename)
        extent.content = line.kind.isFlat ? .flat(hostOffset: 0) : .unopened
        guard let (node, child) = try openFile(line, otherNames, index, &options) else { return extent }
        switch line.kind {
        case .flat, .vmfs:
            extent.content = .flat(hostOffset: (line.offset ?? 0) * Vmdk.sectorBytes)
        case .seSparse:
            let tables = try VmdkSESparse(file: node, mostEntries: directoryEntriesLeft)
            if !request.settings.metadataOnly && !request.settings.forCheck { try tables.checkRepeats() }
            try takeDirectory(tables.directoryEntries)
            guard tables.capacitySectors >= line.sectors else {
                throw BlockError(
                    .corrupt, "The extent is smaller than the descriptor says", path: node.filename)
            }
            extent.content = .seSparse(tables)
        default:
            extent = try sparseExtent(
                node, child: child, guestStart: start, sectors: line.sectors, name: extent.filename)
        }
        extent.kindName = line.kind.rawValue
        extent.file = node
        extent.child = child
        return extent
    }

    private mutating func openFile(
        _ line: VmdkExtentLine, _ otherNames: [String], _ index: Int, _ options: inout OptionTree
    ) throws(BlockError) -> (node: BlockNode, child: Int)? {
        let key = line.filename.rawBytes
        if line.kind.isFlat, let known = flatFiles[key] { return known }
        let opened: BlockNode?
        do throws(BlockError) {
            opened = try request.openChild(
                line.filename, otherNames: otherNames, role: "extents.\(index)", purpose: .extent,
                options: &options)
        } catch {
            guard error.kind == .notFound else { throw error }
            throw BlockError(
                .notFound,
                "The extent file '\(line.filename)', which holds a part of the disk, is "
                    + "missing: \(error.message)", errno: error.errno, path: file.filename)
        }
        guard let node = opened else { return nil }
        children += 1
        let result = (node: node, child: children)
        if line.kind.isFlat { flatFiles[key] = result }
        return result
    }

    // MARK: What cannot be written

    static func checkWritable(_ state: VmdkState) throws(BlockError) {
        func refuse(_ reason: String) -> BlockError { BlockError(.readOnly, reason) }
        if state.descriptor?.descriptor.tracksChanges == true {
            throw refuse("The image has a file that keeps track of its changes, so it is only read here")
        }
        if state.descriptor?.descriptor.extents.contains(where: { $0.extent.isReadOnly }) == true {
            throw refuse("An extent of the image is marked as read-only")
        }
        for extent in state.extents {
            if case .seSparse = extent.content { throw refuse("SEsparse extents are only read") }
            if extent.tables?.header.isAtEnd == true {
                throw refuse("An image that was written as a stream is only read; convert it to change it")
            }
        }
    }
}
