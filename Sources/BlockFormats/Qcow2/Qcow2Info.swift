import BlockCore
import Synchronization

extension Qcow2Driver {
    public func describe() throws(BlockError) -> FormatInfo {
        let header = metadata.withLock { $0.header }
        var fields = [
            InfoField("compat", .text(header.version >= 3 ? "1.1" : "0.10")),
            InfoField("compression-type", .text(header.compressionType.name)),
        ]
        if header.version >= 3 { fields.append(InfoField("lazy-refcounts", .flag(header.hasLazyRefcounts))) }
        fields += try bitmapFields()
        fields.append(InfoField("refcount-bits", .number(layout.refcountBits)))
        // The name is shown as stored; the file is not opened.
        if let name = header.dataFileName { fields.append(InfoField("data-file", .text(name))) }
        if let encryption = encryptionFields(header) {
            fields.append(InfoField("encrypt", .object(encryption)))
        }
        if header.incompatible.contains(.dataFile) {
            fields.append(InfoField("data-file-raw", .flag(header.keepsDataFileRaw)))
        }
        if header.version >= 3 {
            fields.append(InfoField("corrupt", .flag(header.incompatible.contains(.corrupt))))
            fields.append(InfoField("extended-l2", .flag(header.incompatible.contains(.extendedL2))))
        }
        return FormatInfo(
            clusterSizeBytes: layout.clusterSize, isEncrypted: header.cryptMethod != 0,
            isDirty: header.incompatible.contains(.dirty), specific: fields,
            vmStateOffset: layout.l1Entries(forVirtualSize: header.virtualSize) * layout.guestBytesPerL2Table)
    }

    private func encryptionFields(_ header: Qcow2Header) -> [InfoField]? {
        guard let method = Qcow2Encryption.Method(rawValue: header.cryptMethod), method != .none else {
            return nil
        }
        return luks.withLock { $0?.header.description(isDetached: false, format: method.name) }
            ?? [InfoField("format", .text(method.name))]
    }
}

extension Qcow2Driver {
    /// The list of bitmaps, where there are any.
    private func bitmapFields() throws(BlockError) -> [InfoField] {
        let bitmaps = try bitmaps()
        if bitmaps.isEmpty { return [] }
        let list = bitmaps.map { bitmap in
            let flags = (bitmap.isInconsistent ? ["in-use"] : []) + (bitmap.isEnabled ? ["auto"] : [])
            return InfoValue.object([
                InfoField("flags", .list(flags.map { .text($0) })), InfoField("name", .text(bitmap.name)),
                InfoField("granularity", .number(bitmap.granularity)),
            ])
        }
        return [InfoField("bitmaps", .list(list))]
    }
}
