import BlockCore

extension VdiDriver: Measurable {
    private static let defaultBlockBytes = Int.mib(1)

    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(
                .staticImage, .bool, default: "off", help: "Give every block its place from the start"),
            CreateOption(.uuid, .string, help: "UUID of the image (default: a random one)"),
        ]
    }

    /// The header is written last, because it makes the file an image.
    ///
    /// - Throws: `invalidArgument`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let isStatic = options.flag(.staticImage)
        let size = options.integer(.size) ?? 0
        let header = try newHeader(size, isStatic: isStatic, uuids(options, size, context))
        let entries = (0..<header.blockCount).map { isStatic ? UInt32($0) : Vdi.unallocated }
        let file = try context.createFile(
            size: isStatic ? header.dataOffset + header.blockCount * header.blockBytes : 0)
        do throws(BlockError) {
            var map = BlockTable(entries: entries, offset: header.mapOffset, isBigEndian: false)
            try map.write(to: file)
            try file.flush()
            try file.write(header.serialised().span.bytes, at: 0)
            try file.flush()
        } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    /// Static images have space for all data from the start.
    ///
    /// - Throws: nothing.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool {
        options.flag(.staticImage)
    }

    /// The image's UUID and that of its last change, which is derived from a stated one.
    private static func uuids(
        _ options: CreateOptions, _ size: Int, _ context: CreateContext
    ) throws(BlockError) -> [ImageUUID] {
        guard let stated = try options.uuid() else {
            return (0..<2).map { context.newUUID(for: "vdi \($0) \(size)") }
        }
        return [stated, ImageUUID.make(seed: "vdi \(stated.text) \(size)")]
    }

    private static func newHeader(
        _ size: Int, isStatic: Bool, _ uuids: [ImageUUID]
    ) throws(BlockError) -> VdiHeader {
        let blocks = size / defaultBlockBytes + (size % defaultBlockBytes == 0 ? 0 : 1)
        guard blocks <= Vdi.Limit.blocks else {
            throw BlockError(
                .limit,
                "Unsupported VDI image size (size is 0x\(String(size, radix: 16)), max supported is "
                    + "0x\(String(Vdi.Limit.blocks * defaultBlockBytes, radix: 16)))")
        }
        return VdiHeader(
            bytes: constantFields(uuids), type: isStatic ? .fixed : .dynamic,
            mapOffset: Vdi.sectorBytes, dataOffset: Vdi.sectorBytes + BlockTable.fileBytes(entries: blocks),
            virtualSize: size, blockBytes: defaultBlockBytes, blockExtraBytes: 0, blockCount: blocks,
            allocatedCount: isStatic ? blocks : 0)
    }

    /// The first sector with the fields that do not depend on the disk: texts, versions, UUIDs.
    private static func constantFields(_ uuids: [ImageUUID]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Vdi.sectorBytes)
        bytes.replaceSubrange(0..<creator.count, with: creator)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        VdiHeader.signatureField.store(UInt64(Vdi.signature), in: &span)
        VdiHeader.versionField.store(UInt64(Vdi.version), in: &span)
        // VirtualBox's number: up to the end of the UUIDs.
        VdiHeader.headerBytesField.store(0x180, in: &span)
        VdiHeader.sectorBytesField.store(UInt64(Vdi.sectorBytes), in: &span)
        for (uuid, field) in zip(uuids, [VdiHeader.uuidField, VdiHeader.changeUUIDField]) {
            for (index, byte) in uuid.mixedEndian.enumerated() {
                span.storeLittleEndian(byte, at: field.offset + index)
            }
        }
        return bytes
    }

    private static let creator = Array("<<< Platter VM Virtual Disk Image >>>\n".utf8)

    /// - Throws: `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        let header = try newHeader(virtualSize, isStatic: false, [])
        let fixed = header.dataOffset
        let full = header.blockCount * defaultBlockBytes
        var data = options.flag(.staticImage) ? full : 0
        if let source, data == 0 { data = try source.allocatedBytes(unit: defaultBlockBytes) }
        return try MeasuredSize(fixed: fixed, data: data, full: full)
    }
}
