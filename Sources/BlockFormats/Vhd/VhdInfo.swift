import BlockCore

extension VhdDriver {
    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        guard isDynamic else {
            var fields = Self.fields(.fixed, footer)
            if virtualSize % Vhd.azureUnit != 0 {
                fields.append(InfoField("note", .text("not a multiple of 1 MiB, which Azure refuses")))
            }
            return FormatInfo(specific: fields)
        }
        let child = self.child
        var fields = Self.fields(child == nil ? .dynamic : .differencing, footer)
        if let child { fields.append(InfoField("parent-uuid", .text(child.parentUUID.text))) }
        return FormatInfo(clusterSizeBytes: blockBytes, specific: fields)
    }

    private static func fields(_ type: Vhd.DiskType, _ footer: VhdFooter) -> [InfoField] {
        [
            InfoField("subformat", .text(type.name)), InfoField("creator", .text(footer.creatorText)),
            InfoField("uuid", .text(footer.uuid.text)),
        ]
    }
}
