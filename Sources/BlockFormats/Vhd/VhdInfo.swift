import BlockCore

extension VhdDriver {
    public func describe() throws(BlockError) -> FormatInfo {
        guard case .dynamic(let state) = body else {
            var fields = Self.fields(.fixed, footer)
            if virtualSize % Vhd.azureUnit != 0 {
                fields.append(InfoField("note", .text("not a multiple of 1 MiB, which Azure refuses")))
            }
            return FormatInfo(specific: fields)
        }
        return state.withLock { state in
            var fields = Self.fields(state.isDifferencing ? .differencing : .dynamic, state.footer)
            if state.isDifferencing {
                fields.append(InfoField("parent-uuid", .text(state.header.parentUUID.text)))
            }
            return FormatInfo(clusterSizeBytes: blockBytes, specific: fields)
        }
    }

    private static func fields(_ type: Vhd.DiskType, _ footer: VhdFooter) -> [InfoField] {
        [
            InfoField("subformat", .text(type.name)), InfoField("creator", .text(footer.creatorText)),
            InfoField("uuid", .text(footer.uuid.text)),
        ]
    }
}
