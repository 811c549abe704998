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

    /// The order of writes: the parts with their tables; then the descriptor, or the header of the only file,
    /// which makes the files an image.
    ///
    /// - Throws: `invalidArgument`, `unsupported`, `limit`, `notFound`; `io`, `noSpace`, `exists`.
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
        try contentID(node.parentIdentity(of: name), of: node)
    }

    /// The content ID of an open VMDK image after its next change.
    static func nextContentID(of node: BlockNode) throws(BlockError) -> UInt32 {
        try contentID(node.nextParentIdentity(of: name), of: node)
    }

    /// - Throws: `unsupported` for an image of another format.
    private static func contentID(_ identity: [UInt8]?, of node: BlockNode) throws(BlockError) -> UInt32 {
        guard let identity else {
            throw BlockError(
                .unsupported, "Invalid backing file format: \(node.driverName). Must be \(name)",
                path: node.filename)
        }
        return identity.reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Flat files have all of their space from the start, sparse ones only that of their metadata.
    ///
    /// - Throws: nothing.
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

    /// Writes both directories; their tables are holes or reserved space.
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

    /// - Throws: `invalidArgument`, `unsupported`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        var options = options
        try options.set(.size, to: String(virtualSize))
        try options.set(.backingFile, to: nil)
        let plan = try VmdkPlan(options, filename: "disk.vmdk", uuid: ImageUUID(bytes: []))
        let text = plan.subformat.isEmbedded ? 0 : plan.descriptor.text.count
        let full = plan.sectors * Vmdk.sectorBytes
        if plan.subformat.isFlat { return MeasuredSize(required: text + full, fullyAllocated: text + full) }
        let fixed = plan.parts.reduce(text) { $0 + plan.header($1.sectors).overheadBytes }
        let grain = Vmdk.grainSectors * Vmdk.sectorBytes
        // Incompressible data needs more: marker, zlib's overhead, the rest of a sector.
        let stored = plan.subformat == .streamOptimized ? grain + Vmdk.sectorBytes : grain
        let data = try source.map { node throws(BlockError) in try node.allocatedBytes(unit: grain) } ?? 0
        let grains = { (bytes: Int) in (bytes + grain - 1) / grain }
        return try MeasuredSize(fixed: fixed, data: grains(data) * stored, full: grains(full) * stored)
    }
}
