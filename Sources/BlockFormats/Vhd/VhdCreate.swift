import BlockCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

extension VhdDriver: Measurable {
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.backingFile, .string, help: "Parent, a VHD image"),
            CreateOption(.backingFormat, .string, help: "Format of the parent: vpc"),
            CreateOption(
                .subformat, .string, help: "dynamic (default), fixed, or differencing (with a parent)"),
            CreateOption(.forceSize, .bool, help: "Exactly this size, not the next one with a geometry"),
            CreateOption(
                .azure, .bool, help: "As Azure takes it: fixed, of exactly the next multiple of 1 MiB"),
            CreateOption(.blockSize, .size, help: "Block size, a power of two from 4K to 256M (default 2M)"),
            CreateOption(.uuid, .string, help: "UUID of the image (default: a random one)"),
        ]
    }

    /// The new image, as set by the options.
    private struct Plan {
        var type: Vhd.DiskType
        var footer: VhdFooter
        var size: Int
        var blockBytes: Int

        var header: VhdHeader {
            let blocks = size / blockBytes + (size % blockBytes == 0 ? 0 : 1)
            let tableOffset = Vhd.usualHeaderOffset + Vhd.headerBytes
            return VhdHeader(
                offset: Vhd.usualHeaderOffset, tableOffset: tableOffset, blocks: blocks,
                blockBytes: blockBytes)
        }
    }

    private static func plan(
        _ options: CreateOptions, uuid: ImageUUID, time: UInt32
    ) throws(BlockError) -> Plan {
        let type = try diskType(options)
        let isForAzure = options.flag(.azure)
        let unit = isForAzure ? Vhd.azureUnit : Vhd.sectorBytes
        guard let size = (options.integer(.size) ?? 0).roundedUp(to: unit), size <= Vhd.Limit.diskBytes else {
            throw BlockError(.limit, "The disk size is too large, max size is 2040 GiB")
        }
        let blockBytes = options.integer(.blockSize) ?? Vhd.defaultBlockBytes
        guard blockBytes.isPowerOfTwo, Vhd.Limit.newBlockBytes.contains(blockBytes) else {
            throw BlockError(.invalidArgument, "VHD block size must be a power of two from 4096 to 268435456")
        }
        var footer = VhdFooter(
            type: type, headerOffset: type == .fixed ? nil : Vhd.usualHeaderOffset, uuid: uuid, time: time)
        footer.setNewSize(
            size, exactly: isForAzure || options.flag(.forceSize) || type == .differencing)
        let plan = Plan(type: type, footer: footer, size: try footer.virtualSize(), blockBytes: blockBytes)
        guard plan.size <= Vhd.Limit.blocks * blockBytes || type == .fixed else {
            throw BlockError(.limit, "A VHD image cannot have more than \(Vhd.Limit.blocks) blocks")
        }
        return plan
    }

    private static func diskType(_ options: CreateOptions) throws(BlockError) -> Vhd.DiskType {
        let hasParent = !(options[.backingFile] ?? "").isEmpty
        let text = options[.subformat]
        switch (text, hasParent) {
        case (nil, false): return options.flag(.azure) ? .fixed : .dynamic
        case (nil, true), ("differencing", true): return .differencing
        case ("dynamic", false): return .dynamic
        case ("fixed", false): return .fixed
        case ("differencing", false):
            throw BlockError(.invalidArgument, "A differencing VHD image needs a backing file")
        case ("dynamic", true), ("fixed", true):
            throw BlockError(.invalidArgument, "A \(text ?? "") VHD image has no backing file")
        default:
            throw BlockError(
                .invalidArgument, "Parameter 'subformat' does not accept value '\(text ?? "")'")
        }
    }

    /// - Throws: `invalidArgument`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let uuid = try options.uuid() ?? context.newUUID(for: "vpc")
        var plan = try plan(options, uuid: uuid, time: time(context, options))
        if plan.type == .fixed {
            if plan.size % Vhd.azureUnit != 0 {
                context.note("The disk is not a multiple of 1 MiB, so that Azure refuses it; see -o azure=on")
            }
            return try using(context, size: plan.size) { file throws(BlockError) in
                try writeFixed(plan, to: file)
            }
        }
        let parent = try parent(options, &plan, context)
        try using(context) { file throws(BlockError) in
            try writeDynamic(plan, parent, context.filename, to: file)
        }
    }

    /// Fixed images have space for all data from the start.
    ///
    /// - Throws: `invalidArgument` for an unknown subformat.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool {
        try diskType(options) == .fixed
    }

    private static func using(
        _ context: CreateContext, size: Int = 0, _ body: (BlockNode) throws(BlockError) -> Void
    ) throws(BlockError) {
        let file = try context.createFile(size: size)
        do throws(BlockError) { try body(file) } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    /// Seconds since 2000. 0 in an image with a stated UUID, so that its bytes do not depend on the time.
    private static func time(_ context: CreateContext, _ options: CreateOptions) -> UInt32 {
        var now = context.sourceDate ?? 0
        if context.sourceDate == nil {
            if options[.uuid] != nil { return 0 }
            var time = timespec()
            clock_gettime(CLOCK_REALTIME, &time)
            now = time.tv_sec
        }
        return UInt32(clamping: now - Vhd.epoch)
    }

    /// The footer is written last, because it makes the file an image.
    private static func writeFixed(_ plan: Plan, to file: BlockNode) throws(BlockError) {
        try file.resize(to: plan.size)
        try file.flush()
        try file.write(plan.footer.sealed().span.bytes, at: plan.size)
        try file.flush()
    }

    // MARK: Dynamic disks

    /// The parent of a new child. A child of the same size copies the parent's size fields.
    private static func parent(
        _ options: CreateOptions, _ plan: inout Plan, _ context: CreateContext
    ) throws(BlockError) -> VhdParent? {
        guard plan.type == .differencing, let name = options[.backingFile] else { return nil }
        let reference = BackingReference(filename: name, format: options[.backingFormat])
        var parent = VhdParent(uuid: VhdParent.unknown, time: 0, path: try VhdParent.path(of: reference))
        guard
            let node = try context.openBacking(
                BackingReference(filename: parent.path, format: VhdDriver.name))
        else { return parent }
        if let footer = VhdFooter(parentIdentity: node) {
            parent.uuid = footer.uuid
            parent.time = footer.time
            if try footer.virtualSize() == plan.size { plan.footer.takeSizes(of: footer) }
        }
        try node.close()
        return parent
    }

    /// The footers are written last, because they make the file an image. The parent's names are placed
    /// before the table, so that only blocks follow the table.
    private static func writeDynamic(
        _ plan: Plan, _ parent: VhdParent?, _ filename: String, to file: BlockNode
    ) throws(BlockError) {
        var header = plan.header
        if let parent {
            let spellings = parent.spellings(from: filename)
            let names = VhdNames(spellings, at: header.range.upperBound)
            // Leaves the same space again, so that another parent can be named before this name is
            // overwritten.
            let tableOffset = names.end + (names.end - header.range.upperBound)
            header.setTable(offset: tableOffset, blocks: header.blocks)
            header.setParent(parent, names.locators)
            try names.write(to: file)
        }
        let empty = [UInt32](repeating: Vhd.unallocated, count: header.blocks)
        var table = BlockTable(entries: empty, offset: header.tableOffset, isBigEndian: true)
        try table.write(to: file)
        try file.write(header.sealed().span.bytes, at: header.offset)
        try file.flush()
        let footer = plan.footer.sealed()
        try file.write(footer.span.bytes, at: header.tableRange.upperBound)
        try file.write(footer.span.bytes, at: 0)
        try file.flush()
    }

    /// - Throws: `invalidArgument`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        var options = options
        try options.set(.size, to: String(virtualSize))
        let plan = try plan(options, uuid: VhdParent.unknown, time: 0)
        guard plan.type != .fixed else {
            let size = plan.size + Vhd.footerBytes
            return MeasuredSize(required: size, fullyAllocated: size)
        }
        let header = plan.header
        func fileBytes(_ blocks: Int) -> Int {
            let first = header.blockPlace(from: header.tableRange.upperBound)
            let end =
                blocks == 0
                ? header.tableRange.upperBound
                : first + (blocks - 1) * header.blockDistance + header.strideBytes
            return end + Vhd.footerBytes
        }
        let data = try source?.allocatedBytes(unit: plan.blockBytes) ?? 0
        return MeasuredSize(
            required: fileBytes(data / plan.blockBytes + (data % plan.blockBytes == 0 ? 0 : 1)),
            fullyAllocated: fileBytes(header.blocks))
    }
}

/// The spellings of a parent's name, laid out in sequence.
struct VhdNames {
    let locators: [VhdHeader.Locator]
    private let spellings: [(platform: String, bytes: [UInt8])]
    /// The end of the last one, in bytes.
    let end: Int

    init(_ spellings: [(platform: String, bytes: [UInt8])], at start: Int) {
        var place = start
        self.spellings = spellings
        locators = spellings.map { spelling in
            let locator = VhdHeader.Locator(
                platform: spelling.platform, offset: place, length: spelling.bytes.count)
            place = locator.range.upperBound
            return locator
        }
        end = place
    }

    func write(to file: BlockNode) throws(BlockError) {
        for (locator, spelling) in zip(locators, spellings) {
            let padding = [UInt8](repeating: 0, count: locator.range.count - locator.length)
            let bytes = spelling.bytes + padding
            try file.write(bytes.span.bytes, at: locator.offset)
        }
    }
}
