import BlockCore

extension VhdxDriver: Measurable {
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size; at most 64T"),
            CreateOption(
                .logSize, .size, default: VhdxPlan.defaultLogBytes, help: "Log size; at least 1M"),
            CreateOption(
                .blockSize, .size, default: "0",
                help: "Block size, a power of two from 1M to 256M; 0: by the size of the disk"),
            CreateOption(.subformat, .string, help: "dynamic (the default) or fixed"),
            CreateOption(
                .blockStateZero, .bool,
                help: "Mark blocks that are not stored as zero (on by default), not as absent"),
            CreateOption(.backingFile, .string, help: "The VHDX image that shows through"),
            CreateOption(.backingFormat, .string, help: "Its format: vhdx"),
        ]
    }

    /// The file identifier is written last, because it makes the file an image.
    ///
    /// - Throws: `invalidArgument`, `unsupported`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        var plan = try VhdxPlan(options)
        if let name = options[.backingFile], !name.isEmpty {
            try setParent(BackingReference(filename: name, format: options[.backingFormat]), &plan, context)
        }
        let file = try context.createFile(size: fileBytes(plan))
        do throws(BlockError) { try write(plan, to: file, context) } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    private static func fileBytes(_ plan: VhdxPlan) -> Int {
        plan.fileBytes(blocks: plan.isFixed ? plan.geometry.blockCount : 0)
    }

    /// Fixed images have space for all data from the start.
    ///
    /// - Throws: `invalidArgument`, `limit` for an invalid option.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool {
        try VhdxPlan(options).isFixed
    }

    /// Notes the parent, its name and its data write GUID.
    private static func setParent(
        _ reference: BackingReference, _ plan: inout VhdxPlan, _ context: CreateContext
    ) throws(BlockError) {
        guard !plan.isFixed else {
            throw BlockError(.invalidArgument, "A fixed VHDX image cannot have a backing file")
        }
        guard reference.format == nil || reference.format == name else {
            throw BlockError(
                .unsupported,
                "The backing file of a VHDX image is a VHDX image, not '\(reference.format ?? "")'")
        }
        guard let parent = try context.openBacking(reference) else {
            throw BlockError(
                .unsupported,
                "A VHDX image notes what its backing file's data are known by, so that the "
                    + "backing file must be opened")
        }
        defer { try? parent.close() }
        plan.locator = try VhdxParentLocator.make(
            linkage: linkage(to: parent), filename: reference.filename)
        plan.geometry.hasParent = true
    }

    /// The data write GUID of `parent`.
    ///
    /// - Throws: `unsupported` when it is not a VHDX image.
    static func linkage(to parent: BlockNode) throws(BlockError) -> ImageUUID {
        guard let bytes = parent.parentIdentity(of: VhdxDriver.name) else {
            throw BlockError(
                .unsupported, "The backing file of a VHDX image is a VHDX image, not '\(parent.driverName)'")
        }
        return ImageUUID(bytes: bytes)
    }

    private static func write(
        _ plan: VhdxPlan, to file: BlockNode, _ context: CreateContext
    ) throws(BlockError) {
        try file.resize(to: fileBytes(plan))
        try writeTable(plan, to: file)
        let metadata = plan.metadata(diskID: context.newUUID(for: "vhdx disk"))
        try file.write(metadata.span.bytes, at: plan.metadataRange.lowerBound)
        let regions = VhdxRegions(all: [
            VhdxRegions.Region(guid: Vhdx.Region.bat, range: plan.batRange, isRequired: true),
            VhdxRegions.Region(guid: Vhdx.Region.metadata, range: plan.metadataRange, isRequired: true),
        ]).serialised()
        for offset in Vhdx.regionTableOffsets { try file.write(regions.span.bytes, at: offset) }
        var header = VhdxHeader(
            sequence: 0, fileWriteGUID: context.newUUID(for: "vhdx file write"),
            dataWriteGUID: context.newUUID(for: "vhdx data write"), logGUID: Vhdx.noGUID,
            logBytes: plan.logBytes, logOffset: plan.logRange.lowerBound)
        for offset in Vhdx.headerOffsets {
            let bytes = header.serialised()
            try file.write(bytes.span.bytes, at: offset)
            header.sequence += 1
        }
        try file.flush()
        let identifier = fileIdentifier
        try file.write(identifier.span.bytes, at: 0)
        try file.flush()
    }

    /// The signature, and the creator in UTF-16.
    private static var fileIdentifier: [UInt8] {
        Vhdx.signature + "Platter".utf16.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    }

    /// Writes the BAT except its zeroes.
    private static func writeTable(_ plan: VhdxPlan, to file: BlockNode) throws(BlockError) {
        let perPart = Vhdx.unitBytes / 8
        let count = plan.geometry.entryCount
        guard count > 0, plan.isFixed || plan.entry(0) != 0 else { return }
        let buffer = AlignedBuffer(count: min(count * 8, Vhdx.unitBytes))
        for first in stride(from: 0, to: count, by: perPart) {
            let end = min(count, first + perPart)
            var bytes = buffer.mutableBytes(0..<(end - first) * 8)
            for index in first..<end {
                bytes.storeLittleEndian(plan.entry(index), at: (index - first) * 8)
            }
            try file.write(
                buffer.bytes(0..<(end - first) * 8), at: plan.batRange.lowerBound + first * 8)
        }
    }

    /// - Throws: `invalidArgument`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        var options = options
        try options.set(.size, to: String(virtualSize))
        let plan = try VhdxPlan(options)
        let full = plan.fileBytes(blocks: plan.geometry.blockCount)
        if plan.isFixed { return MeasuredSize(required: full, fullyAllocated: full) }
        let data = try source?.allocatedBytes(unit: plan.geometry.blockBytes) ?? 0
        let blocks = VhdxGeometry.blocks(in: data, of: plan.geometry.blockBytes)
        return MeasuredSize(required: plan.fileBytes(blocks: blocks), fullyAllocated: full)
    }
}
