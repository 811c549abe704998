import BlockCore

extension VmdkDriver: Measurable {
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(
                .adapterType, .string,
                help: "Virtual adapter type: ide (default), lsilogic, buslogic or legacyESX"),
            CreateOption(.backingFile, .string, help: "File name of a base image"),
            CreateOption(.backingFormat, .string, help: "Its format: must be 'vmdk'"),
            CreateOption(.compat6, .bool, default: "off", help: "VMDK version 6 image"),
            CreateOption(.hwVersion, .string, default: "undefined", help: "VMDK hardware version"),
            CreateOption(.toolsVersion, .string, help: "VMware guest tools version"),
            CreateOption(
                .subformat, .string,
                help: "monolithicSparse (default), monolithicFlat, twoGbMaxExtentSparse, "
                    + "twoGbMaxExtentFlat or streamOptimized"),
            CreateOption(
                .zeroedGrain, .bool, help: "Mark zeroed grains as such instead of storing them"),
        ]
    }

    /// The order of writes: the parts with their tables, then what makes the image: the descriptor, or the
    /// header of the one file.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        var plan = try VmdkPlan(options, filename: context.filename, uuid: context.newUUID(for: "vmdk"))
        plan.parentCID = try parentCID(plan, context)
        if plan.subformat.isEmbedded {
            return try using(context.createFile(size: 0)) { file throws(BlockError) in
                try writeTables(plan.header(plan.sectors), file, plan.preallocation)
                try file.write(plan.descriptor.text.span.bytes, at: Vmdk.descriptorOffset)
                try file.flush()
                try writeHeader(plan.header(plan.sectors), file)
            }
        }
        for part in plan.parts { try createPart(part, plan, context) }
        try using(context.createFile(size: 0)) { file throws(BlockError) in
            let text = plan.descriptor.text
            try file.write(text.span.bytes, at: 0)
            try file.flush()
        }
    }

    private static func parentCID(_ plan: VmdkPlan, _ context: CreateContext) throws(BlockError) -> UInt32 {
        guard let backing = plan.backing else { return Vmdk.noParent }
        let reference = BackingReference(filename: backing, format: name)
        guard let node = try context.openBacking(reference) else {
            throw BlockError(
                .notFound,
                "Could not open the backing file '\(backing)': a VMDK image notes which contents it must have"
            )
        }
        defer { try? node.close() }
        return try contentID(of: node)
    }

    /// The content ID of an open VMDK image.
    static func contentID(of node: BlockNode) throws(BlockError) -> UInt32 {
        try driver(of: node).session.withLock { $0.descriptor?.descriptor.cid ?? 0 }
    }

    /// - Throws: `unsupported` for an image of another format.
    static func driver(of node: BlockNode) throws(BlockError) -> VmdkDriver {
        guard let driver = node.format as? VmdkDriver else {
            throw BlockError(
                .unsupported, "Invalid backing file format: \(node.driverName). Must be \(name)",
                path: node.filename)
        }
        return driver
    }

    /// Files of plain bytes have all of their space from the start, those with grains what they begin with.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool { true }

    static func createPart(
        _ part: VmdkPlan.Part, _ plan: VmdkPlan, _ context: CreateContext
    ) throws(BlockError) {
        let size = plan.subformat.isFlat ? part.sectors * Vmdk.sectorBytes : 0
        try using(context.createFile(named: part.path, size: size)) { file throws(BlockError) in
            guard !plan.subformat.isFlat else { return try file.flush() }
            try writeTables(plan.header(part.sectors), file, plan.preallocation)
            try file.flush()
            try writeHeader(plan.header(part.sectors), file)
        }
    }

    /// Runs `body` and closes the file.
    static func using(
        _ file: BlockNode, _ body: (BlockNode) throws(BlockError) -> Void
    ) throws(BlockError) {
        do throws(BlockError) { try body(file) } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    /// Writes both directories; their tables are holes, or space that is reserved.
    static func writeTables(
        _ header: VmdkSparseHeader, _ file: BlockNode, _ preallocation: Preallocation = .off
    ) throws(BlockError) {
        try file.resize(to: header.overheadBytes, preallocation: preallocation)
        for offset in [header.redundantDirectoryOffset ?? 0, header.directoryOffset] where offset > 0 {
            let entries = VmdkGrainTables.bytes(VmdkPlan.directory(header, at: offset))
            try file.write(entries.span.bytes, at: offset)
        }
    }

    static func writeHeader(_ header: VmdkSparseHeader, _ file: BlockNode) throws(BlockError) {
        let bytes = header.serialised()
        try file.write(bytes.span.bytes, at: 0)
        try file.flush()
    }

    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        var options = options
        options.set(.size, to: String(virtualSize))
        options.set(.backingFile, to: nil)
        let plan = try VmdkPlan(options, filename: "disk.vmdk", uuid: ImageUUID(bytes: []))
        let text = plan.subformat.isEmbedded ? 0 : plan.descriptor.text.count
        let full = plan.sectors * Vmdk.sectorBytes
        if plan.subformat.isFlat { return MeasuredSize(required: text + full, fullyAllocated: text + full) }
        let fixed = plan.parts.reduce(text) { $0 + plan.header($1.sectors).overheadBytes }
        let grain = Vmdk.grainSectors * Vmdk.sectorBytes
        // What does not compress takes a little more: marker, zlib's overhead, the rest of a sector.
        let stored = plan.subformat == .streamOptimized ? grain + Vmdk.sectorBytes : grain
        let data = try source.map { node throws(BlockError) in try node.allocatedBytes(unit: grain) } ?? 0
        let grains = { (bytes: Int) in (bytes + grain - 1) / grain }
        return try MeasuredSize(fixed: fixed, data: grains(data) * stored, full: grains(full) * stored)
    }
}
