import BlockCore

extension VmdkDriver {
    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        session.withLock { state in
            let descriptor = state.descriptor?.descriptor
            let fields = [
                InfoField("cid", .number(Int(descriptor?.cid ?? 0))),
                InfoField("parent-cid", .number(Int(descriptor?.parentCID ?? Vmdk.noParent))),
                InfoField("create-type", .text(descriptor?.createType ?? "")),
                InfoField("extents", .list(state.extents.map(Self.describe))),
            ]
            return FormatInfo(clusterSizeBytes: state.extents.first?.grainBytes, specific: fields)
        }
    }

    private static func describe(_ extent: VmdkExtent) -> InfoValue {
        var fields: [InfoField] = []
        if extent.tables?.header.isCompressed == true { fields.append(InfoField("compressed", .flag(true))) }
        fields.append(InfoField("virtual-size", .number(extent.guest.count)))
        fields.append(InfoField("filename", .text(extent.filename)))
        if let grain = extent.grainBytes { fields.append(InfoField("cluster-size", .number(grain))) }
        fields.append(InfoField("format", .text(extent.kindName)))
        return .object(fields)
    }
}
