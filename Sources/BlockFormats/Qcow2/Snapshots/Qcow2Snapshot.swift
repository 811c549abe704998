import BlockCore

/// An entry of the snapshot table (section "Snapshots").
///
///     0 l1_table_offset  8 l1_size  12 id size  14 name size  16 date seconds  20 date nanoseconds
///     24 VM clock nanoseconds  32 VM state size  36 extra data size  40 extra data, id, name, padding to 8
///     extra data: 0 VM state size (64 bits)  8 virtual size  16 instruction count
struct Qcow2Snapshot: Sendable, Equatable {
    var l1Offset: Int
    var l1Entries: Int
    var info: SnapshotInfo
    /// Extra data behind the known fields, kept unchanged.
    var unknownExtra: [UInt8] = []
    /// The bytes of extra data in the image.
    var extraSize = knownExtraSize

    /// Whether the entry lacks fields that version 3 requires, as entries by old programs do.
    var lacksExtra: Bool { extraSize < Self.requiredExtraSize }
    /// Whether QEMU refuses the image because of how much extra data the entry has.
    var hasTooMuchExtra: Bool { extraSize > Qcow2.Limit.snapshotExtraBytes }

    static let fixedSize = 40
    static let knownExtraSize = 24
    /// The extra data that version 3 requires: the sizes of the state and of the disk.
    static let requiredExtraSize = 16
    /// Stands for "not recorded" in the instruction count.
    private static let noInstructionCount = UInt64.max

    /// Reads the entry at `position`; `nil` when it does not end inside the array.
    static func parse(_ table: [UInt8], at position: Int) -> (snapshot: Qcow2Snapshot, size: Int)? {
        guard position <= table.count else { return nil }
        return parse(table.span.bytes.extracting(position..<table.count))
    }

    /// Reads the entry at the start of `bytes`; `nil` when it does not end inside.
    static func parse(_ bytes: RawSpan) -> (snapshot: Qcow2Snapshot, size: Int)? {
        guard bytes.byteCount >= fixedSize,
            let offset = Int(exactly: bytes.bigEndian(UInt64.self, at: 0) ?? 0),
            let idSize: UInt16 = bytes.bigEndian(at: 12), let nameSize: UInt16 = bytes.bigEndian(at: 14),
            let extraSize: UInt32 = bytes.bigEndian(at: 36), extraSize <= Qcow2.Limit.snapshotTableBytes
        else { return nil }
        let idStart = fixedSize + Int(extraSize)
        let nameStart = idStart + Int(idSize)
        let end = nameStart + Int(nameSize)
        guard let extra = bytes.part(fixedSize..<idStart), let id = bytes.text(idStart..<nameStart),
            let name = bytes.text(nameStart..<end)
        else { return nil }
        // Zeroes are no entry: an earlier entry with a wrong size leads to a wrong position.
        guard idSize > 0, bytes.bigEndian(UInt8.self, at: idStart) != 0,
            nameSize == 0 || bytes.bigEndian(UInt8.self, at: nameStart) != 0
        else { return nil }
        var info = SnapshotInfo(id: id, name: name)
        info.dateSeconds = Int(bytes.bigEndian(UInt32.self, at: 16) ?? 0)
        info.dateNanoseconds = Int(bytes.bigEndian(UInt32.self, at: 20) ?? 0)
        info.vmClockNanoseconds = Int(clamping: bytes.bigEndian(UInt64.self, at: 24) ?? 0)
        info.vmStateSizeBytes = Int(bytes.bigEndian(UInt32.self, at: 32) ?? 0)
        readExtra(extra, into: &info)
        let snapshot = Qcow2Snapshot(
            l1Offset: offset, l1Entries: Int(bytes.bigEndian(UInt32.self, at: 8) ?? 0), info: info,
            unknownExtra: extra.part(knownExtraSize..<max(knownExtraSize, extra.byteCount))?.array ?? [],
            extraSize: Int(extraSize))
        return (snapshot, (end + 7) & ~7)
    }

    private static func readExtra(_ extra: RawSpan, into info: inout SnapshotInfo) {
        if let size: UInt64 = extra.bigEndian(at: 0) { info.vmStateSizeBytes = Int(clamping: size) }
        if let size: UInt64 = extra.bigEndian(at: 8) { info.virtualSize = Int(clamping: size) }
        if let count: UInt64 = extra.bigEndian(at: 16), count != noInstructionCount {
            info.instructionCount = Int(clamping: count)
        }
    }

    /// The entry with no more extra data than every program accepts.
    var withBoundedExtra: Qcow2Snapshot {
        var bounded = self
        bounded.unknownExtra = Array(
            unknownExtra.prefix(Qcow2.Limit.snapshotExtraBytes - Self.knownExtraSize))
        return bounded
    }

    /// The entry as stored in the table, padded to 8 bytes.
    func serialised() -> [UInt8] {
        let id = info.id.rawBytes
        let name = info.name.rawBytes
        var bytes = [UInt8](zeroed: Self.fixedSize + Self.knownExtraSize) { span in
            span.storeBigEndian(UInt64(l1Offset), at: 0)
            span.storeBigEndian(UInt32(l1Entries), at: 8)
            span.storeBigEndian(UInt16(id.count), at: 12)
            span.storeBigEndian(UInt16(name.count), at: 14)
            span.storeBigEndian(UInt32(truncatingIfNeeded: info.dateSeconds), at: 16)
            span.storeBigEndian(UInt32(truncatingIfNeeded: info.dateNanoseconds), at: 20)
            span.storeBigEndian(UInt64(info.vmClockNanoseconds), at: 24)
            let stateSize = UInt32(exactly: info.vmStateSizeBytes) ?? 0
            span.storeBigEndian(stateSize, at: 32)
            span.storeBigEndian(UInt32(Self.knownExtraSize + unknownExtra.count), at: 36)
            span.storeBigEndian(UInt64(info.vmStateSizeBytes), at: 40)
            span.storeBigEndian(UInt64(info.virtualSize ?? 0), at: 48)
            span.storeBigEndian(info.instructionCount.map { UInt64($0) } ?? Self.noInstructionCount, at: 56)
        }
        bytes += unknownExtra + id + name
        bytes += repeatElement(0, count: (8 - bytes.count % 8) % 8)
        return bytes
    }
}

extension Qcow2State {
    /// Reads the snapshot table.
    ///
    /// - Parameter checksPlaces: whether an L1 table at an impossible place is an error. - Returns: the
    ///   snapshots, and the bytes of the table.
    func snapshotTable(
        checksPlaces: Bool = true
    ) throws(BlockError) -> (snapshots: [Qcow2Snapshot], bytes: Int) {
        let count = header.snapshotCount
        guard count > 0 else { return ([], 0) }
        let available = max(0, try file.length() - header.snapshotsOffset)
        // Reads no more than the entries need: the image states the count, but the file limits the bytes.
        let limit = min(available, Qcow2.Limit.snapshotTableBytes)
        var window = try file.readBytes(at: header.snapshotsOffset, count: min(limit, 65536))
        var snapshots: [Qcow2Snapshot] = []
        var position = 0
        while snapshots.count < count {
            if let (snapshot, size) = Qcow2Snapshot.parse(window, at: position) {
                if checksPlaces, let problem = placeProblem(of: snapshot) { throw problem }
                snapshots.append(snapshot)
                position += size
            } else if window.count < limit {
                let larger = min(limit, window.count * 4)
                window = try file.readBytes(at: header.snapshotsOffset, count: larger)
            } else {
                throw corrupt("Snapshot table entry \(snapshots.count) is damaged or the table is too large")
            }
        }
        return (snapshots, position)
    }

    /// The reason why a snapshot's L1 table cannot be read; `nil` where it can.
    func placeProblem(of snapshot: Qcow2Snapshot) -> BlockError? {
        guard snapshot.l1Entries <= Qcow2.Limit.l1TableBytes / 8 else {
            return BlockError(.limit, "Snapshot L1 table too large", path: file.filename)
        }
        do throws(BlockError) {
            try Qcow2Header.checkTable(
                "Snapshot L1 table", snapshot.l1Offset, snapshot.l1Entries * 8, layout)
        } catch { return error.concerning(file.filename) }
        return nil
    }

    /// Completes entries without the disk's size: the size is about to change, or version 3 requires it.
    func completeSnapshotTable() throws(BlockError) {
        let snapshots = try snapshotTable().snapshots
        guard snapshots.contains(where: { $0.lacksExtra }) else { return }
        try protectMetadata()
        try replaceSnapshotTable(snapshots)
        try commit()
    }

    /// The reason why references of a snapshot may be missing in its tables; `nil` for a plausible entry.
    func incompleteness(of snapshot: Qcow2Snapshot) -> String? {
        let size = snapshot.info.virtualSize ?? (snapshot.l1Entries > 0 ? 0 : header.virtualSize)
        guard size > Qcow2.Limit.virtualSize || snapshot.l1Entries < layout.l1Entries(forVirtualSize: size)
        else { return nil }
        return "the L1 table of snapshot \(snapshot.info.id) does not go with the size of its disk"
    }

    /// Writes a new snapshot table and makes the header point to it.
    ///
    /// Order of writes:
    /// 1. The table in a new place; a barrier.
    /// 2. Its place and count, in the header's sector; a barrier.
    /// 3. The old table's space is released.
    ///
    /// - Parameter keepsOld: whether the old table stays, leaked: it records the snapshots that a repair
    ///   dropped.
    func replaceSnapshotTable(_ snapshots: [Qcow2Snapshot], keepsOld: Bool = false) throws(BlockError) {
        let oldBytes = try snapshotTable(checksPlaces: false).bytes
        let old = header.snapshotsOffset
        var changed = header
        changed.snapshotCount = snapshots.count
        changed.snapshotsOffset = try writeSnapshotTable(snapshots)
        try commit()
        try moveHeader(to: changed)
        protection = nil
        try barrier()
        if oldBytes > 0 && !keepsOld {
            release(layout.cluster(at: HostOffset(old)), count: layout.clusters(oldBytes))
        }
    }

    /// Writes a snapshot table to a new place. Returns its offset; 0 where there are no snapshots.
    func writeSnapshotTable(_ snapshots: [Qcow2Snapshot]) throws(BlockError) -> Int {
        let bytes = snapshots.flatMap { snapshot in
            var snapshot = snapshot
            // Old entries have no size; if it were still left out, the written field would be zero.
            snapshot.info.virtualSize = snapshot.info.virtualSize ?? header.virtualSize
            return snapshot.serialised()
        }
        guard bytes.count <= Qcow2.Limit.snapshotTableBytes, snapshots.count <= Qcow2.Limit.snapshots else {
            throw BlockError(.limit, "Too many snapshots", path: file.filename)
        }
        if bytes.isEmpty { return 0 }
        return try fillingNewClusters(layout.clusters(bytes.count)) { offset throws(BlockError) in
            try file.write(bytes.span.bytes, at: offset)
            hasUnflushedWrites = true
        }
    }
}
