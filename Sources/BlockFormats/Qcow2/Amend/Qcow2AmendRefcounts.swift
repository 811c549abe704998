import BlockCore

extension Qcow2State {
    /// The size of all refcount blocks up to the last one, in bytes.
    func refcountWorkBytes() throws(BlockError) -> Int {
        layout.refcountBlock(of: try refcounts().endOfBlocks) << layout.clusterBits
    }

    /// Whether all refcounts fit the width.
    ///
    /// - Throws: `invalidArgument` with the first that does not.
    func checkRefcountsFit(order: Int) throws(BlockError) {
        guard order < layout.refcountOrder else { return }
        try commit()
        var target = layout
        target.refcountOrder = order
        let (highest, bits) = (target.maximumRefcount, target.refcountBits)
        let (layout, path) = (layout, file.filename)
        let store = try refcounts()
        try store.eachCounted(HostCluster(0)..<store.endOfBlocks) { cluster, count throws(BlockError) in
            guard count > highest else { return }
            throw BlockError(
                .invalidArgument,
                "Cannot decrease refcount entry width to \(bits) bits: Cluster at offset "
                    + "0x\(String(layout.offset(of: cluster).bytes, radix: 16)) has a refcount of \(count)",
                path: path)
        }
    }

    /// Gives the refcounts another width, which all of them fit.
    ///
    /// Order of writes:
    /// 1. The new blocks and table, behind the end of the file and behind every cluster with a refcount; a
    ///    barrier.
    /// 2. The header's sector. Before it nothing refers to the new structure; after it the old structure's
    ///    clusters are free, because the new refcounts leave them out.
    func changeRefcountWidth(order: Int, _ control: JobControl) throws(BlockError) {
        try protectMetadata()
        // Also after a failure the file may be longer than the allocator knows.
        defer { adopt(header) }
        var target = layout
        target.refcountOrder = order
        var rewrite = try RefcountRewrite(self, to: target, control)
        let table = try rewrite.run()
        var changed = header
        changed.refcountOrder = order
        changed.refcountTableOffset = layout.offset(of: table.lowerBound).bytes
        changed.refcountTableClusters = table.count
        try switchHeader(to: changed)
    }
}

/// Copies refcounts into a new structure of another width.
private struct RefcountRewrite {
    private let file: BlockNode
    private let source: Qcow2Allocator
    private let old: Qcow2Layout
    private let target: Qcow2Layout
    private let control: JobControl
    /// The clusters of the old structure, sorted.
    private let oldClusters: [HostCluster]
    /// The first cluster of the new structure.
    private let start: HostCluster
    /// The number of blocks written, adjacent from ``start`` on.
    private var written = 0
    private var table: [UInt64] = []
    private var current = 0
    private var buffer: AlignedBuffer
    private var isEmpty = true

    init(_ tables: Qcow2State, to target: Qcow2Layout, _ control: JobControl) throws(BlockError) {
        file = tables.file
        source = try tables.refcounts()
        old = tables.layout
        self.target = target
        self.control = control
        let first = old.cluster(at: HostOffset(tables.header.refcountTableOffset))
        let blocks = source.table.filter { $0 & L2Entry.offsetMask != 0 }
            .map { tables.layout.cluster(in: $0) }
        oldClusters = (blocks + (first..<first + tables.header.refcountTableClusters)).sorted()
        buffer = AlignedBuffer(count: target.clusterSize, zeroed: true)
        let end = max(old.endCluster(ofFile: try file.length()), source.virginCluster)
        var last = end - 1
        try source.eachCounted(end..<max(end, source.endOfBlocks)) { cluster, _ in last = cluster }
        start = last + 1
    }

    /// Writes blocks and table. Returns the table's clusters.
    mutating func run() throws(BlockError) -> Range<HostCluster> {
        var index = 0
        let source = source
        let oldClusters = oldClusters
        let control = control
        let (perBlock, blockBytes) = (old.refcountsPerBlock, old.clusterSize)
        for first in stride(from: HostCluster(0), to: source.endOfBlocks, by: perBlock) {
            try control.checkpoint(moving: 0)
            try source.eachCounted(first..<max(first, min(first + perBlock, start))) {
                cluster, count throws(BlockError) in
                while index < oldClusters.count, oldClusters[index] < cluster { index += 1 }
                let isOld = index < oldClusters.count && oldClusters[index] == cluster
                try add(cluster, isOld ? count - 1 : count)
            }
            control.advance(by: blockBytes)
        }
        return try finish()
    }

    private mutating func add(_ cluster: HostCluster, _ count: UInt64) throws(BlockError) {
        guard count <= target.maximumRefcount else {
            throw BlockError(.limit, "The refcount of cluster \(cluster) is too large", path: file.filename)
        }
        guard count > 0 else { return }
        let block = target.refcountBlock(of: cluster)
        if block != current { try flush(movingTo: block) }
        set(cluster, count)
    }

    private mutating func set(_ cluster: HostCluster, _ count: UInt64) {
        var bytes = buffer.mutableBytes
        RefcountEntries.set(
            &bytes, cluster.index % target.refcountsPerBlock, to: count, order: target.refcountOrder)
        isEmpty = false
    }

    /// Writes the block in memory, unless it is all zero, and begins another one.
    private mutating func flush(movingTo block: Int) throws(BlockError) {
        if !isEmpty {
            let place = target.offset(of: start + written).bytes
            try file.write(buffer.bytes, at: place)
            if table.count <= current { table += repeatElement(0, count: current + 1 - table.count) }
            table[current] = UInt64(place)
            written += 1
            var bytes = buffer.mutableBytes
            bytes.fill()
        }
        current = block
        isEmpty = true
    }

    /// Writes the blocks that count the new structure itself, and the table.
    private mutating func finish() throws(BlockError) -> Range<HostCluster> {
        let first = target.refcountBlock(of: start)
        if first != current { try flush(movingTo: first) }
        var last = first
        var tableClusters = 1
        while true {
            let total = written + (last - first + 1) + tableClusters
            let newLast = target.refcountBlock(of: start + total - 1)
            let newTable = target.clusters((newLast + 1) * 8)
            if newLast == last && newTable == tableClusters { break }
            (last, tableClusters) = (newLast, newTable)
        }
        guard tableClusters << target.clusterBits <= Qcow2.Limit.refcountTableBytes else {
            throw BlockError(.limit, "The refcount table would become too large", path: file.filename)
        }
        let tableStart = start + written + last - first + 1
        let own = start..<tableStart + tableClusters
        for block in first...last {
            let counted = target.firstCluster(ofBlock: block)..<target.firstCluster(ofBlock: block + 1)
            for cluster in own.clamped(to: counted) { set(cluster, 1) }
            try flush(movingTo: block + 1)
        }
        let entries = (tableClusters << target.clusterBits) / 8
        table += repeatElement(0, count: entries - table.count)
        try BigEndianTable.write(table, to: file, at: target.offset(of: tableStart).bytes)
        return tableStart..<tableStart + tableClusters
    }
}
