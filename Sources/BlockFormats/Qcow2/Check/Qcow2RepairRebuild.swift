import BlockCore

/// A new refcount structure, where the old one cannot be trusted.
extension Qcow2Repair {
    /// Builds a new refcount structure behind everything that is in the file.
    ///
    /// Order of writes: new blocks and a new table where nothing lies, a barrier, then the header's sector.
    /// The old structure is unused from then on.
    ///
    /// - Parameter keepingUnused: count what nothing refers to as used once, so that it stays for now.
    mutating func rebuild(keepingUnused: Bool) throws(BlockError) {
        let used = try usedBlocks(keepingUnused)
        let perTableCluster = layout.clusterSize / 8
        var blocks = used
        var tableClusters = 0
        var blockClusters = 0
        // The structure counts its own clusters too, which may take more blocks.
        while true {
            let end = scope.fileClusters + blockClusters + tableClusters
            let own =
                end > scope.fileClusters
                ? scope.fileClusters / layout.refcountsPerBlock...(end - 1) / layout.refcountsPerBlock : nil
            let all = own.map { used.union($0) } ?? used
            let highest = (all.max() ?? 0) + 1
            let newTable = (highest + perTableCluster - 1) / perTableCluster
            if all.count == blockClusters && newTable == tableClusters { break }
            blocks = all
            blockClusters = all.count
            tableClusters = newTable
        }
        guard tableClusters << layout.clusterBits <= Qcow2.Limit.refcountTableBytes else {
            throw BlockError(.limit, "The refcount table would become too large", path: tables.file.filename)
        }
        try write(blocks.sorted(), tableClusters: tableClusters, keepingUnused)
    }

    /// The numbers of the blocks that count at least one cluster in use.
    private func usedBlocks(_ keepingUnused: Bool) throws(BlockError) -> Set<Int> {
        var used: Set<Int> = []
        try eachRebuildWindow(keepingUnused) { window in
            var block = window.clusters.lowerBound / layout.refcountsPerBlock
            while block * layout.refcountsPerBlock < window.clusters.upperBound {
                let range = block * layout.refcountsPerBlock..<(block + 1) * layout.refcountsPerBlock
                if !window.isFree(range.clamped(to: window.clusters)) { used.insert(block) }
                block += 1
            }
        }
        return used
    }

    /// Counts all references, window by window. The old refcount structure is still among them: what it takes
    /// is found to be leaked once nothing refers to it.
    private func eachRebuildWindow(
        _ keepingUnused: Bool, _ body: (ReferenceWindow) throws(BlockError) -> Void
    ) throws(BlockError) {
        // Windows end where blocks end, so that each block is filled from one window.
        let step = max(
            layout.refcountsPerBlock,
            ReferenceWindow.size.roundedDown(to: layout.refcountsPerBlock))
        var start = 0
        repeat {
            let end = min(scope.fileClusters, start + step)
            var window = try Qcow2Surveyor.references(to: start..<end, scope)
            if keepingUnused { window.countUnused() }
            try body(window)
            start = end
        } while start < scope.fileClusters
    }

    /// Writes table and blocks and switches the header to them.
    private mutating func write(
        _ blocks: [Int], tableClusters: Int, _ keepingUnused: Bool
    ) throws(BlockError) {
        let file = tables.file
        let tableStart = scope.fileClusters
        let firstBlock = tableStart + tableClusters
        let own = tableStart..<firstBlock + blocks.count
        var table = [UInt64](repeating: 0, count: (tableClusters << layout.clusterBits) >> 3)
        let place = Dictionary(uniqueKeysWithValues: blocks.enumerated().map { ($1, firstBlock + $0) })
        for (block, cluster) in place { table[block] = UInt64(cluster << layout.clusterBits) }
        var written: Set<Int> = []
        try eachRebuildWindow(keepingUnused) { window throws(BlockError) in
            let first = window.clusters.lowerBound / layout.refcountsPerBlock
            let last =
                max(window.clusters.lowerBound, window.clusters.upperBound - 1) / layout.refcountsPerBlock
            for block in first...last {
                guard let cluster = place[block] else { continue }
                let bytes = Self.block(block, window, own, layout)
                try file.write(bytes.bytes, at: cluster << layout.clusterBits)
                written.insert(block)
            }
        }
        for block in blocks where !written.contains(block) {
            let bytes = Self.block(block, ReferenceWindow(0..<0), own, layout)
            try file.write(bytes.bytes, at: (place[block] ?? 0) << layout.clusterBits)
        }
        try BigEndianTable.write(table, to: file, at: tableStart << layout.clusterBits)
        try tables.barrier()
        tables.header.refcountTableOffset = tableStart << layout.clusterBits
        tables.header.refcountTableClusters = tableClusters
        try tables.writeHeaderFields()
        try tables.barrier()
        try tables.reload()
        scope = try Qcow2CheckScope(tables)
    }

    /// A refcount block with the counts of a window and of the new structure itself.
    private static func block(
        _ index: Int, _ window: ReferenceWindow, _ own: Range<Int>, _ layout: Qcow2Layout
    ) -> AlignedBuffer {
        let buffer = AlignedBuffer(count: layout.clusterSize, zeroed: true)
        var bytes = buffer.mutableBytes
        let range = index * layout.refcountsPerBlock..<(index + 1) * layout.refcountsPerBlock
        for cluster in range.clamped(to: window.clusters) {
            let count = min(window.count(of: cluster), layout.maximumRefcount)
            RefcountEntries.set(&bytes, cluster - range.lowerBound, to: count, order: layout.refcountOrder)
        }
        for cluster in range.clamped(to: own) {
            RefcountEntries.set(&bytes, cluster - range.lowerBound, to: 1, order: layout.refcountOrder)
        }
        return buffer
    }
}
