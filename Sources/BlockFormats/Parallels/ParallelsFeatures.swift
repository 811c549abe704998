import BlockCore

/// The format extension of an open image: dirty bitmaps, and sections that only other programs understand.
struct ParallelsFeatures {
    var bitmaps: [ParallelsBitmap] = []
    /// Unknown sections, which are stored unchanged.
    var kept: [ParallelsExtension.Section] = []
    /// The reason for which the extension is unusable; `nil` when it is usable or absent.
    private(set) var problem: String?
    /// The reason for which the image must not be changed; `nil` when it may be.
    private(set) var obstacle: String?
    /// The offsets of the extension's and the bitmaps' clusters, in bytes.
    var ownClusters: [Int] = []

    /// Whether clusters of the file may belong to unknown sections.
    var keepsUnknown: Bool { !kept.isEmpty }

    init(reading file: BlockNode, _ header: ParallelsHeader, fileBytes: Int) throws(BlockError) {
        guard header.extensionSector > 0 else { return }
        let offset = header.extensionSector * Parallels.sectorBytes
        guard offset >= header.tableEnd, offset <= fileBytes - header.clusterBytes else {
            fail("it is beyond the end of the file")
            return
        }
        guard header.clusterBytes <= Parallels.Limit.extensionBytes else {
            fail("its cluster is too large")
            return
        }
        ownClusters = [offset]
        let bytes = try file.readBytes(at: offset, count: header.clusterBytes)
        do throws(BlockError) {
            for section in try ParallelsExtension.parse(bytes.span.bytes) { try take(section, header) }
        } catch {
            guard error.kind == .corrupt || error.kind == .limit else { throw error }
            fail(error.message)
        }
    }

    private mutating func take(
        _ section: ParallelsExtension.Section, _ header: ParallelsHeader
    ) throws(BlockError) {
        guard section.magic == ParallelsExtension.Section.dirtyBitmap else {
            if section.isNecessary {
                obstacle = "The image has a feature that Platter does not know, and must not be changed"
            }
            if section.isTransit { kept.append(section) }
            return
        }
        var bitmap = try ParallelsBitmap(
            section, diskBytes: header.virtualSize, clusterBytes: header.clusterBytes)
        guard let offsets = bitmap.clusterOffsets else {
            throw BlockError(.corrupt, "a dirty bitmap is beyond the end of the file")
        }
        ownClusters += offsets
        if header.inUse != Parallels.Use.closed {
            bitmap.obstacle = "the image was written to without it"
        } else if bitmap.obstacle != nil, section.isNecessary {
            obstacle = "A dirty bitmap cannot be read, and the image must not be changed without it"
        }
        let known = bitmaps.reduce(0) { $0 + $1.storedBytes(header) } + bitmap.storedBytes(header)
        if known > Parallels.Limit.bitmapBytes { bitmap.obstacle = "there are too many bits" }
        bitmaps.append(bitmap)
    }

    /// Drops the extension as unusable, with the reason.
    mutating func fail(_ reason: String) {
        (bitmaps, kept, ownClusters) = ([], [], [])
        problem = reason
    }

    /// Drops the unusable extension.
    mutating func dropProblem() { problem = nil }
}

extension ParallelsBitmap {
    /// The memory that the bits need at most, in bytes.
    fileprivate func storedBytes(_ header: ParallelsHeader) -> Int {
        entries.isEmpty ? 0 : Self.storedBytes(diskBytes: header.virtualSize, granularity: granularity)
    }
}

extension ParallelsState {
    /// Reads the bits of a bitmap from the file.
    func readBits(_ bitmap: ParallelsBitmap) throws(BlockError) -> DirtyBitmap {
        let bits = try DirtyBitmap(size: header.virtualSize, granularity: bitmap.granularity)
        let stored = bits.byteCount
        for (index, entry) in bitmap.entries.enumerated() {
            let start = index * header.clusterBytes
            let count = min(header.clusterBytes, stored - start)
            if entry == ParallelsBitmap.allSet {
                bits.set(guestBytes(ofBits: start..<start + count, bits))
            } else if entry != ParallelsBitmap.allClear {
                try readBits(bits, at: start, count: count, from: Int(entry) * Parallels.sectorBytes)
            }
        }
        return bits
    }

    /// The guest bytes that the bits in these bytes stand for.
    private func guestBytes(ofBits bytes: Range<Int>, _ bits: DirtyBitmap) -> Range<Int> {
        let step = 8 * bits.granularity
        let (end, overflow) = bytes.upperBound.multipliedReportingOverflow(by: step)
        return bytes.lowerBound * step..<(overflow ? header.virtualSize : min(end, header.virtualSize))
    }

    private func readBits(
        _ bits: DirtyBitmap, at start: Int, count: Int, from offset: Int
    ) throws(BlockError) {
        var done = 0
        while done < count {
            let part = try file.readBytes(at: offset + done, count: min(1 << 20, count - done))
            bits.formUnion(bytes: part.span.bytes, at: start + done)
            done += part.count
        }
    }

    /// Reads the bits of all bitmaps, so that they can record changes.
    mutating func loadBitmaps() throws(BlockError) {
        for index in features.bitmaps.indices where features.bitmaps[index].obstacle == nil {
            if features.bitmaps[index].bits == nil {
                features.bitmaps[index].bits = try readBits(features.bitmaps[index])
            }
        }
    }

    /// The place of a written extension, to which the header refers later.
    struct StoredExtension {
        /// The first sector; 0 for no extension.
        var sector = 0
        /// Its clusters and those of its bitmaps, in bytes.
        var clusters: [Int] = []
    }

    /// Writes an extension that has only the unknown sections. Durable on return.
    mutating func storeKeptSections() throws(BlockError) -> StoredExtension {
        var stored = StoredExtension()
        try store(features.kept, &stored)
        return stored
    }

    /// Writes the bitmaps and the unknown sections. Durable on return.
    mutating func storeFeatures() throws(BlockError) -> StoredExtension {
        var stored = StoredExtension()
        var sections = features.kept
        // A bitmap that did not record the changes is outdated, and is dropped.
        features.bitmaps.removeAll { $0.bits == nil }
        for index in features.bitmaps.indices {
            guard let bits = features.bitmaps[index].bits else { continue }
            features.bitmaps[index].entries = try storeBits(bits, &stored)
            sections.append(features.bitmaps[index].section(diskBytes: header.virtualSize))
        }
        try store(sections, &stored)
        return stored
    }

    private mutating func store(
        _ sections: [ParallelsExtension.Section], _ stored: inout StoredExtension
    ) throws(BlockError) {
        if sections.isEmpty { return }
        let bytes = try ParallelsExtension.serialised(sections, clusterBytes: header.clusterBytes)
        let offset = layout.hostOffset(ofCluster: try takeClusters(atMost: 1).lowerBound)
        try file.write(bytes.span.bytes, at: offset)
        try file.flush()
        stored.clusters.append(offset)
        stored.sector = offset / Parallels.sectorBytes
    }

    private mutating func storeBits(
        _ bits: DirtyBitmap, _ stored: inout StoredExtension
    ) throws(BlockError) -> [UInt64] {
        var entries: [UInt64] = []
        for start in stride(from: 0, to: bits.byteCount, by: header.clusterBytes) {
            let count = min(header.clusterBytes, bits.byteCount - start)
            if let value = bits.common(inBytes: start..<start + count) {
                entries.append(value ? ParallelsBitmap.allSet : ParallelsBitmap.allClear)
                continue
            }
            let offset = layout.hostOffset(ofCluster: try takeClusters(atMost: 1).lowerBound)
            try write(bits, from: start, at: offset)
            stored.clusters.append(offset)
            entries.append(UInt64(offset / Parallels.sectorBytes))
        }
        return entries
    }

    /// Writes a cluster of a bitmap, its last part first, so that the file grows by the whole cluster in one
    /// step.
    private func write(_ bits: DirtyBitmap, from start: Int, at offset: Int) throws(BlockError) {
        let buffer = AlignedBuffer(count: min(header.clusterBytes, 1 << 20))
        for done in stride(from: 0, to: header.clusterBytes, by: buffer.count).reversed() {
            let count = min(buffer.count, header.clusterBytes - done)
            var span = buffer.mutableBytes(0..<count)
            bits.copyBytes(from: start + done, into: &span)
            try file.write(buffer.bytes(0..<count), at: offset + done)
        }
    }
}
