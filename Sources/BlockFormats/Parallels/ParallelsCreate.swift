import BlockCore

extension ParallelsDriver: Measurable {
    private static let defaultClusterBytes = 1 << 20

    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(
                .clusterSize, .size, default: String(defaultClusterBytes),
                help: "Cluster size, in whole sectors of 512 bytes"),
        ]
    }

    /// The header is written last, because it makes the file an image.
    ///
    /// - Throws: `invalidArgument`, `limit`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let header = try newHeader(options, size: options.integer(.size) ?? 0)
        let file = try context.createFile(size: 0)
        do throws(BlockError) {
            // An empty table is all zeroes.
            try file.resize(to: header.dataSector * Parallels.sectorBytes)
            try file.flush()
            try file.write(header.serialised().span.bytes, at: 0)
            try file.flush()
        } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    private static func newHeader(
        _ options: CreateOptions, size: Int
    ) throws(BlockError) -> ParallelsHeader {
        let wanted = options.integer(.clusterSize) ?? defaultClusterBytes
        guard let clusterBytes = wanted.roundedUp(to: Parallels.sectorBytes),
            clusterBytes / Parallels.sectorBytes <= Parallels.Limit.clusterSectors
        else { throw BlockError(.invalidArgument, "Cluster size is too large") }
        guard let size = size.roundedUp(to: Parallels.sectorBytes), size <= Parallels.Limit.virtualSize,
            clusterBytes > 0, (size - 1) / clusterBytes < Parallels.Limit.entries
        else { throw BlockError(.limit, "Image size is too large for this cluster size") }
        return ParallelsHeader(newOfSize: size, clusterBytes: clusterBytes)
    }

    /// - Throws: `invalidArgument`, `limit`; `io` when the source cannot be read.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        let header = try newHeader(options, size: virtualSize)
        let fixed = header.dataSector * Parallels.sectorBytes
        let data = try source?.allocatedBytes(unit: header.clusterBytes) ?? 0
        // The last cluster is stored as a whole.
        let full = header.entryCount * header.clusterBytes
        return try MeasuredSize(
            fixed: fixed, data: data.roundedUp(to: header.clusterBytes) ?? data, full: full)
    }
}
