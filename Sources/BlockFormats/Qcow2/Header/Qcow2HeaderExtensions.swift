import BlockCore

extension Qcow2Header {
    /// Reads the extensions and the backing name from the first cluster.
    mutating func readExtensions(_ cluster: RawSpan) throws(BlockError) {
        let end = backingOffset > 0 ? min(backingOffset, cluster.byteCount) : cluster.byteCount
        var format: String?
        var offset = headerLength
        while offset < end {
            guard let type: UInt32 = cluster.bigEndian(at: offset),
                let length: UInt32 = cluster.bigEndian(at: offset + 4)
            else { throw BlockError(.corrupt, "Header extension too large") }
            offset += 8
            guard Int(length) <= end - offset, let data = cluster.part(offset..<offset + Int(length)) else {
                throw BlockError(.corrupt, "Header extension too large")
            }
            if type == Qcow2.ExtensionType.end { break }
            if type == Qcow2.ExtensionType.backingFormat {
                guard length <= Qcow2.Limit.backingFormatBytes else {
                    throw BlockError(.corrupt, "Backing format name is longer than 63 bytes")
                }
                format = data.text(0..<data.byteCount)
            } else {
                extensions.append(Extension(type: type, data: data.array))
            }
            offset += (Int(length) + 7) & ~7
        }
        try readBackingName(cluster, format: format)
    }

    private mutating func readBackingName(_ cluster: RawSpan, format: String?) throws(BlockError) {
        guard backingOffset > 0 else { return }
        let size = Int(clamping: Self.backingNameField.number(in: cluster))
        guard size <= Qcow2.Limit.backingNameBytes else {
            throw BlockError(.corrupt, "Backing file name too long")
        }
        guard backingOffset <= 1 << clusterBits, size <= (1 << clusterBits) - backingOffset,
            let name = cluster.text(backingOffset..<backingOffset + size)
        else { throw BlockError(.corrupt, "Invalid backing file offset") }
        guard size > 0 else { return }
        guard !name.utf8.contains(0) else {
            throw BlockError(.corrupt, "The backing file name contains a zero byte")
        }
        backing = BackingReference(filename: name, format: format)
        backingNameBytes = size
    }

    /// Checks everything that follows from the header alone.
    ///
    /// - Throws: `corrupt`, `limit` or `unsupported`, naming the field.
    func validate(fileLength: Int) throws(BlockError) {
        try checkFeatures()
        guard refcountOrder <= 6 else {
            throw BlockError(.unsupported, "Reference count entry width too large; may not exceed 64 bits")
        }
        let layout = self.layout
        guard !layout.hasSubclusters || clusterBits >= Qcow2.clusterBitsWithSubclusters else {
            throw BlockError(.corrupt, "Unsupported subcluster size: \(layout.subclusterSize)")
        }
        guard virtualSize <= Qcow2.Limit.virtualSize else {
            throw BlockError(.limit, "Image is too big")
        }
        guard cryptMethod <= 2 else {
            throw BlockError(.unsupported, "Unsupported encryption method \(cryptMethod)")
        }
        guard l1Entries <= Qcow2.Limit.l1TableBytes / 8 else {
            throw BlockError(.limit, "Active L1 table too large")
        }
        guard l1Entries >= layout.l1Entries(forVirtualSize: virtualSize) else {
            throw BlockError(.corrupt, "L1 table is too small")
        }
        try Self.checkTable("Active L1 table", l1Offset, l1Entries * 8, layout)
        guard refcountTableClusters > 0, refcountTableOffset > 0 else {
            throw BlockError(.corrupt, "Image does not contain a reference count table")
        }
        guard refcountTableClusters <= Qcow2.Limit.refcountTableBytes >> clusterBits else {
            throw BlockError(.limit, "Reference count table too large")
        }
        let tableBytes = refcountTableClusters << clusterBits
        try Self.checkTable("Reference count table", refcountTableOffset, tableBytes, layout)
        guard snapshotCount <= Qcow2.Limit.snapshots else {
            throw BlockError(.limit, "Snapshot table too large")
        }
        try Self.checkTable("Snapshot table", snapshotsOffset, 0, layout)
        try checkTablesInsideFile(fileLength)
    }

    /// Checks that the tables lie inside the file. Only an active L1 table that was never written may lie
    /// behind its end, where it reads as zeroes. A refcount table has at least one entry.
    private func checkTablesInsideFile(_ fileLength: Int) throws(BlockError) {
        guard l1Entries == 0 || l1Offset - fileLength <= Qcow2.Limit.l1BehindEndBytes else {
            throw BlockError(.corrupt, "Active L1 table offset is beyond the end of the file")
        }
        guard refcountTableOffset < fileLength else {
            throw BlockError(.corrupt, "Reference count table offset is beyond the end of the file")
        }
    }

    /// Checks that a table starts at a cluster and ends below 2^63.
    static func checkTable(
        _ what: String, _ offset: Int, _ bytes: Int, _ layout: Qcow2Layout
    ) throws(BlockError) {
        guard offset >= 0, bytes <= Int.max - offset, layout.isAligned(offset) else {
            throw BlockError(.corrupt, "\(what) offset invalid", offset: offset)
        }
    }

    /// Refuses unknown incompatible features, by name where the image has one.
    private func checkFeatures() throws(BlockError) {
        let unknown = incompatible.subtracting(.known).rawValue
        if unknown != 0 {
            throw BlockError(.unsupported, "Unsupported qcow2 feature(s): \(featureNames(unknown))")
        }
        if incompatible.contains(.compressionType) == (compressionType == .zlib) {
            throw BlockError(
                .corrupt,
                compressionType == .zlib
                    ? "qcow2: Compression type incompatible feature bit must not be set"
                    : "qcow2: Compression type incompatible feature bit must be set")
        }
    }

    /// The names of incompatible feature bits, from the image's own table; the rest as one number.
    private func featureNames(_ bits: UInt64) -> String {
        let table = extensionData(Qcow2.ExtensionType.featureNames) ?? []
        var unnamed = bits
        var names: [String] = []
        var offset = 0
        while table.count - offset >= 48 {
            let entry = table[offset..<offset + 48]
            offset += 48
            // An entry without a name ends the table, as in QEMU.
            guard entry.dropFirst(2).first != 0 else { break }
            guard let bit = entry.dropFirst().first, entry.first == 0, bit < 64,
                unnamed & (1 << UInt64(bit)) != 0
            else { continue }
            unnamed &= ~(1 << UInt64(bit))
            names.append(String(raw: entry.dropFirst(2).prefix { $0 != 0 }))
        }
        if unnamed != 0 { names.append("Unknown incompatible feature: \(String(unnamed, radix: 16))") }
        return names.joined(separator: ", ")
    }
}
