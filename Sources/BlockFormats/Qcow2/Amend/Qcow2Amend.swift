import BlockCore

/// Options of an existing image are changed one after the other. Order of writes for each: everything that
/// the new header refers to, a barrier, then one write to the header's first sector.
extension Qcow2Driver: Amendable {
    public static var amendOptions: [CreateOption] {
        [
            CreateOption(.backingFile, .string, help: "Only as it is; 'rebase' changes it"),
            CreateOption(.backingFormat, .string, help: "Only as it is; 'rebase' changes it"),
            CreateOption(.compat, .string, help: "Version: 0.10 (v2) or 1.1 (v3)"),
            CreateOption(.dataFile, .string, help: "Name of the external data file"),
            CreateOption(.dataFileRaw, .bool, help: "off: the data file need not make sense alone"),
            CreateOption(.encryptIterTime, .number, help: "Time for deriving a slot's key, in milliseconds"),
            CreateOption(.encryptKeyslot, .number, help: "The key slot to change: 0 to 7"),
            CreateOption(.encryptNewSecret, .string, help: "ID of the passphrase for a slot that is filled"),
            CreateOption(.encryptOldSecret, .string, help: "ID of the passphrase whose slots are erased"),
            CreateOption(.encryptState, .string, help: "active fills a key slot, inactive erases"),
            CreateOption(.lazyRefcounts, .bool, help: "Put off refcount updates"),
            CreateOption(.refcountBits, .number, help: "Refcount width in bits: 1 to 64"),
            CreateOption(.size, .size, help: "Size of the virtual disk"),
        ]
    }

    public func amend(
        _ amendment: Amendment, guest: GuestAccess, _ control: JobControl
    ) throws(BlockError) {
        let slotChange = isEncrypted ? try slotChange(amendment) : nil
        let plan = try exclusively { tables throws(BlockError) -> Qcow2AmendPlan in
            let plan = try Qcow2AmendPlan(amendment.options, tables.header)
            try Self.check(plan, tables)
            control.setTotal(try Self.workBytes(plan, tables))
            return plan
        }
        if let slotChange { try apply(slotChange) }
        if plan.version == 2 { try dropBitmaps(amendment.warn) }
        try change { tables throws(BlockError) in
            if plan.version == 3 { try tables.upgrade() }
            if let order = plan.refcountOrder {
                try tables.changeRefcountWidth(order: order, control)
            }
            try tables.amendDataFile(plan)
            if let isLazy = plan.isLazy { try tables.setLazyRefcounts(isLazy) }
        }
        if let size = plan.virtualSize, size != virtualSize {
            try resize(to: size, preallocation: .off, guest: guest)
        }
        guard plan.version == 2 else { return }
        try change { tables throws(BlockError) in try tables.downgrade(guest, control) }
    }

    /// Runs `body` with all changes in the file and empty caches: a new layout would read cached tables
    /// wrongly.
    private func change(_ body: (Qcow2State) throws(BlockError) -> Void) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            try Self.finishWriting(tables)
            defer { setLayout(tables.layout) }
            try body(tables)
        }
    }

    /// Refuses an impossible amendment before anything is changed.
    private static func check(_ plan: Qcow2AmendPlan, _ tables: Qcow2State) throws(BlockError) {
        guard !tables.isReadOnly else {
            throw BlockError(.readOnly, "Block node is read-only", path: tables.file.filename)
        }
        // Refuses a damaged refcount table, which may refer to one block a million times.
        if plan.refcountOrder != nil { try tables.protectMetadata() }
        if let order = plan.refcountOrder { try tables.checkRefcountsFit(order: order) }
        if plan.version == 2 { try tables.checkDowngrade(to: plan.virtualSize ?? tables.header.virtualSize) }
        if let size = plan.virtualSize, size != tables.header.virtualSize {
            try checkSize(size, tables, version: plan.version == 3 ? 3 : tables.header.version)
        }
    }

    private static func checkSize(
        _ size: Int, _ tables: Qcow2State, version: Int
    ) throws(BlockError) {
        guard version >= 3 || tables.header.snapshotCount == 0 else {
            throw BlockError(.unsupported, "Can't resize a v2 image which has snapshots")
        }
        guard size <= Qcow2.Limit.virtualSize,
            tables.layout.l1Entries(forVirtualSize: size) <= Qcow2.Limit.l1TableBytes / 8
        else { throw BlockError(.limit, "The image size is too large", path: tables.file.filename) }
    }

    private static func workBytes(_ plan: Qcow2AmendPlan, _ tables: Qcow2State) throws(BlockError) -> Int {
        var bytes = 0
        if plan.refcountOrder != nil { bytes += try tables.refcountWorkBytes() }
        if plan.version == 2 { bytes += try tables.downgradeWorkBytes() }
        return bytes
    }
}

extension Qcow2State {
    /// Replaces the header, durably, by one with the same extensions and backing name: only the fixed fields
    /// are written, less than a sector. The header in memory changes only if that succeeds.
    func switchHeader(to changed: Qcow2Header) throws(BlockError) {
        try barrier()
        try file.write(changed.fixedBytes().span.bytes, at: 0)
        try barrier()
        adopt(changed)
    }

    /// Replaces the header, durably, by one of another shape, and adopts it in memory.
    func replaceHeader(with changed: Qcow2Header) throws(BlockError) {
        defer { adopt(header) }
        try rewriteHeader(to: changed)
    }

    /// Version 3 has everything that version 2 has, but requires more fields in snapshots: their table is
    /// completed before the header changes.
    fileprivate func upgrade() throws(BlockError) {
        try completeSnapshotTable()
        var changed = header
        changed.version = 3
        changed.headerLength = Qcow2Header.knownLength
        changed.extensions.insert(Qcow2Header.featureNameTable, at: 0)
        try replaceHeader(with: changed)
    }

    /// Changes only the feature bit: while the dirty bit is clear, the refcounts in the file are right.
    fileprivate func setLazyRefcounts(_ isLazy: Bool) throws(BlockError) {
        var changed = header
        changed.wantsLazyRefcounts = nil
        changed.compatible &= ~Qcow2.Compatible.lazyRefcounts
        if isLazy { changed.compatible |= Qcow2.Compatible.lazyRefcounts }
        try switchHeader(to: changed)
    }

    fileprivate func amendDataFile(_ plan: Qcow2AmendPlan) throws(BlockError) {
        guard plan.dataFile != nil || plan.endsRawDataFile else { return }
        var changed = header
        if plan.endsRawDataFile { changed.autoclear &= ~Qcow2.Autoclear.dataFileRaw }
        guard let name = plan.dataFile else { return try switchHeader(to: changed) }
        changed.extensions.removeAll { $0.type == Qcow2.ExtensionType.dataFile }
        if !name.isEmpty {
            changed.extensions.append(
                Qcow2Header.Extension(type: Qcow2.ExtensionType.dataFile, data: name.rawBytes))
        }
        try replaceHeader(with: changed)
    }
}
