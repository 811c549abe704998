import BlockCore

extension VhdDriver {
    /// As QEMU, nothing specific of a dynamic disk.
    public func describe() throws(BlockError) -> FormatInfo {
        guard case .dynamic(let state) = body else {
            return FormatInfo(specific: fixedFields(footer))
        }
        return state.withLock { state in
            FormatInfo(
                clusterSizeBytes: blockBytes,
                specific: state.isDifferencing ? Self.childFields(state.footer, state.header) : nil)
        }
    }

    private func fixedFields(_ footer: VhdFooter) -> [InfoField] {
        var fields = [
            InfoField("subformat", .text(Vhd.DiskType.fixed.name)),
            InfoField("creator", .text(footer.creatorText)), InfoField("uuid", .text(footer.uuid.text)),
        ]
        if virtualSize % Vhd.azureUnit != 0 {
            fields.append(InfoField("note", .text("not a multiple of 1 MiB, which Azure refuses")))
        }
        return fields
    }

    private static func childFields(_ footer: VhdFooter, _ header: VhdHeader) -> [InfoField] {
        [
            InfoField("subformat", .text(Vhd.DiskType.differencing.name)),
            InfoField("creator", .text(footer.creatorText)), InfoField("uuid", .text(footer.uuid.text)),
            InfoField("parent-uuid", .text(header.parentUUID.text)),
        ]
    }
}
