import BlockCore

/// The kinds of metadata against which writes to the image are checked (`overlap-check`).
struct Qcow2OverlapChecks: OptionSet, Sendable {
    let rawValue: UInt16

    static let mainHeader = Qcow2OverlapChecks(rawValue: 1 << 0)
    static let activeL1 = Qcow2OverlapChecks(rawValue: 1 << 1)
    static let activeL2 = Qcow2OverlapChecks(rawValue: 1 << 2)
    static let refcountTable = Qcow2OverlapChecks(rawValue: 1 << 3)
    static let refcountBlock = Qcow2OverlapChecks(rawValue: 1 << 4)
    static let snapshotTable = Qcow2OverlapChecks(rawValue: 1 << 5)
    static let inactiveL1 = Qcow2OverlapChecks(rawValue: 1 << 6)
    static let inactiveL2 = Qcow2OverlapChecks(rawValue: 1 << 7)
    static let bitmapDirectory = Qcow2OverlapChecks(rawValue: 1 << 8)

    /// The kinds that lie in few places, whatever the image's size.
    static let constant: Qcow2OverlapChecks = [
        .mainHeader, .activeL1, .refcountTable, .snapshotTable, .bitmapDirectory,
    ]
    /// The kinds whose places are in memory anyway.
    static let cached: Qcow2OverlapChecks = constant.union([.activeL2, .refcountBlock, .inactiveL1])
    static let all = cached.union(.inactiveL2)

    private static let names: [(name: String, kind: Qcow2OverlapChecks)] = [
        ("main-header", .mainHeader), ("active-l1", .activeL1), ("active-l2", .activeL2),
        ("refcount-table", .refcountTable), ("refcount-block", .refcountBlock),
        ("snapshot-table", .snapshotTable), ("inactive-l1", .inactiveL1), ("inactive-l2", .inactiveL2),
        ("bitmap-directory", .bitmapDirectory),
    ]

    /// Takes `overlap-check`, its longer form `overlap-check.template`, and the switches of single kinds,
    /// which take precedence over the template.
    ///
    /// - Throws: `invalidArgument` for an unknown template, or for two that differ.
    init(_ options: inout OptionTree) throws(BlockError) {
        let short = options.take("overlap-check")
        let long = options.take("overlap-check.template")
        if let short, let long, short != long {
            throw BlockError(
                .invalidArgument,
                "Conflicting values for qcow2 options 'overlap-check' ('\(short)') and "
                    + "'overlap-check.template' ('\(long)')")
        }
        self = try Self.template(short ?? long ?? "cached")
        for (name, kind) in Self.names {
            guard let isOn = try options.takeFlag("overlap-check.\(name)") else { continue }
            if isOn { insert(kind) } else { remove(kind) }
        }
    }

    private static func template(_ name: String) throws(BlockError) -> Qcow2OverlapChecks {
        switch name {
        case "none": return []
        case "constant": return .constant
        case "cached": return .cached
        case "all": return .all
        default:
            throw BlockError(
                .invalidArgument,
                "Unsupported value '\(name)' for qcow2 option 'overlap-check'. Allowed are any of the "
                    + "following: none, constant, cached, all")
        }
    }

    init(rawValue: UInt16) { self.rawValue = rawValue }
}

extension Qcow2State {
    /// Whether one of the enabled checks forbids a write to a cluster.
    func isGuarded(_ cluster: HostCluster) throws(BlockError) -> Bool {
        if overlapChecks == .cached || isRepairing { return try holdsMetadata(cluster) }
        try protectMetadata()
        guard let protection else { return false }
        if protection.guardedAreas.contains(cluster) { return true }
        let offset = UInt64(cluster.index) << UInt64(layout.clusterBits)
        if protection.inactiveTables.contains(offset) { return true }
        if overlapChecks.contains(.activeL2), protection.filter.mayContain(cluster),
            hasActiveTable(at: cluster)
        {
            return true
        }
        guard overlapChecks.contains(.refcountBlock) else { return false }
        return try refcounts().isBlock(cluster)
    }

    /// The offsets of the snapshots' L2 tables; empty unless writes are checked against them.
    ///
    /// - Throws: `corrupt` where the L1 tables of snapshots together are larger than the file, so that
    ///   reading all of them could take very long.
    func inactiveTables() throws(BlockError) -> Set<UInt64> {
        guard overlapChecks.contains(.inactiveL2) else { return [] }
        var left = try file.length()
        var tables: Set<UInt64> = []
        for snapshot in try snapshotTable().snapshots {
            left -= snapshot.l1Entries * 8
            guard left >= 0 else { throw corrupt("The L1 tables of snapshots overlap") }
            for entry in try readL1(of: snapshot) { tables.insert(entry & L2Entry.offsetMask) }
        }
        tables.remove(0)
        return tables
    }

    /// The clusters of some kinds of metadata that are not tables of one cluster each.
    func areas(of kinds: Qcow2OverlapChecks) throws(BlockError) -> [Range<HostCluster>] {
        var areas = kinds.contains(.mainHeader) ? headerAreas() : []
        if kinds.contains(.activeL1) { areas.append(area(header.l1Offset, header.l1Entries * 8)) }
        if kinds.contains(.refcountTable) { areas.append(refcountTableArea) }
        if !kinds.isDisjoint(with: [.snapshotTable, .inactiveL1]) { areas += try snapshotAreas(kinds) }
        if kinds.contains(.bitmapDirectory) { areas += try bitmapAreas() }
        return areas.filter { !$0.isEmpty }
    }

    private func snapshotAreas(_ kinds: Qcow2OverlapChecks) throws(BlockError) -> [Range<HostCluster>] {
        let (snapshots, bytes) = try snapshotTable()
        var areas: [Range<HostCluster>] = []
        if bytes > 0, kinds.contains(.snapshotTable) { areas.append(area(header.snapshotsOffset, bytes)) }
        guard kinds.contains(.inactiveL1) else { return areas }
        let fileClusters = layout.clusters(try file.length())
        for snapshot in snapshots where snapshot.l1Entries > 0 {
            try checkInFile(snapshot, fileClusters)
            areas.append(area(snapshot.l1Offset, snapshot.l1Entries * 8))
        }
        return areas
    }
}
