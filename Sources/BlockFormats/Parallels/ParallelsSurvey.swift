import BlockCore

/// The survey of a whole table.
struct ParallelsSurvey {
    enum Finding: Equatable {
        /// The entry points before the data area or behind the end of the file.
        case outside(block: Int)
        /// The cluster is the file's last, and the file ends inside it.
        case cut(block: Int)
        /// The cluster does not begin at a multiple of the cluster size from the start of the data area.
        case misaligned(block: Int)
        /// An earlier entry refers to the same cluster.
        case shared(block: Int)

        /// Whether the repair drops the data that the entry referred to.
        var isLoss: Bool { if case .outside = self { true } else { false } }

        /// Whether the repair copies the block to a new cluster.
        var wantsCopy: Bool {
            switch self {
            case .outside, .cut: false
            case .misaligned, .shared: true
            }
        }
    }

    private(set) var findings = Findings<Finding>()
    /// The number of findings whose repair is a copy.
    private(set) var copyCount = 0
    private(set) var allocated = 0
    /// The number of entries whose cluster does not follow that of the entry before.
    private(set) var fragmented = 0
    private(set) var space = ParallelsSpace()

    private let layout: ParallelsLayout
    private let fileBytes: Int
    private let mostClusters: Int

    /// Surveys all entries.
    ///
    /// - Throws: `limit` when clusters are scattered too far for the bitmap of used clusters.
    init(_ table: BlockTable, _ layout: ParallelsLayout, fileBytes: Int) throws(BlockError) {
        self.init(of: table.count, layout, fileBytes: fileBytes)
        var previous = 0
        for block in 0..<table.count {
            let entry = table[block]
            guard entry != Parallels.unallocated else {
                previous = 0
                continue
            }
            let offset = layout.hostOffset(entry)
            allocated += 1
            if previous != 0, previous + layout.clusterBytes != offset { fragmented += 1 }
            previous = offset
            if let finding = try look(at: block, entry) { add(finding) }
        }
    }

    /// An empty survey of that many entries; ``look(at:_:)`` adds each.
    init(of entries: Int, _ layout: ParallelsLayout, fileBytes: Int) {
        self.layout = layout
        self.fileBytes = fileBytes
        mostClusters = entries * Parallels.Limit.fileClustersPerEntry + Parallels.Limit.fileClusters
    }

    /// The finding for the next allocated entry; `nil` for a sound one. Marks its cluster as used.
    mutating func look(at block: Int, _ entry: UInt32) throws(BlockError) -> Finding? {
        let offset = layout.hostOffset(entry)
        guard offset >= layout.tableEnd, offset < fileBytes else { return .outside(block: block) }
        guard offset >= layout.dataStart else {
            space.mark(0)
            return .misaligned(block: block)
        }
        let inside = (offset - layout.dataStart) % layout.clusterBytes
        let cluster = (offset - layout.dataStart) / layout.clusterBytes
        guard cluster < mostClusters else {
            throw BlockError(.limit, "The clusters of the image are scattered too far", offset: offset)
        }
        if inside != 0 {
            space.mark(cluster..<cluster + 2)
            return .misaligned(block: block)
        }
        guard space.mark(cluster) else { return .shared(block: block) }
        return fileBytes - offset < layout.clusterBytes ? .cut(block: block) : nil
    }

    private mutating func add(_ finding: Finding) {
        findings.corruption(finding)
        if finding.wantsCopy { copyCount += 1 }
    }

    /// Marks the clusters of the format extension as used. `false` when one is used already or invalid.
    mutating func mark(extensionClusters offsets: [Int]) -> Bool {
        let before = space
        for offset in offsets {
            guard offset >= layout.dataStart, offset <= fileBytes - layout.clusterBytes,
                (offset - layout.dataStart) % layout.clusterBytes == 0,
                (offset - layout.dataStart) / layout.clusterBytes < mostClusters,
                space.mark((offset - layout.dataStart) / layout.clusterBytes)
            else {
                space = before
                return false
            }
        }
        return true
    }
}

/// The layout of clusters in the file. An immutable value.
struct ParallelsLayout: Sendable, Equatable {
    let clusterBytes: Int
    /// The unit of an entry, in bytes.
    let entryUnit: Int
    let tableEnd: Int
    /// The start of the data area, in bytes.
    let dataStart: Int
    /// Whether the header states another start.
    let headerIsWrong: Bool

    func hostOffset(_ entry: UInt32) -> Int { Int(entry) * entryUnit }
    func hostOffset(ofCluster cluster: Int) -> Int { dataStart + cluster * clusterBytes }
    func cluster(_ entry: UInt32) -> Int { (hostOffset(entry) - dataStart) / clusterBytes }

    /// The entry for a cluster of the data area.
    ///
    /// - Throws: `noSpace` when its number does not fit into an entry.
    func entry(forCluster cluster: Int) throws(BlockError) -> UInt32 {
        guard let entry = UInt32(exactly: hostOffset(ofCluster: cluster) / entryUnit) else {
            throw BlockError(.noSpace, "The image cannot hold more clusters")
        }
        return entry
    }
}

extension ParallelsLayout {
    /// Finds the start of the data area. If the header states none or a wrong one, it is the first offset
    /// behind the table from which the clusters can be counted.
    init(_ header: ParallelsHeader, _ table: BlockTable, fileBytes: Int) {
        let stated = header.dataSector * Parallels.sectorBytes
        var lowest = Int.max
        var first: Int?
        for block in 0..<table.count where table[block] != Parallels.unallocated {
            let offset = Int(table[block]) * header.entryUnit
            guard offset >= header.tableEnd, offset < fileBytes else { continue }
            first = first ?? offset
            lowest = min(lowest, offset)
        }
        let mayBeOmitted = header.kind == .sectors && stated == 0
        let isRight =
            stated >= header.tableEnd && stated <= fileBytes && stated <= lowest
            && (header.kind == .sectors || stated % header.clusterBytes == 0)
        var start = stated
        if !isRight {
            let unit = header.kind == .sectors ? Parallels.sectorBytes : header.clusterBytes
            start = (header.tableEnd + unit - 1) / unit * unit
            if let first, first > start { start += (first - start) % header.clusterBytes }
        }
        self.init(
            clusterBytes: header.clusterBytes, entryUnit: header.entryUnit, tableEnd: header.tableEnd,
            dataStart: start, headerIsWrong: !isRight && !mayBeOmitted)
    }
}
