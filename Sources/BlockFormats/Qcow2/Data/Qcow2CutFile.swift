import BlockCore
import Synchronization

/// Images whose file ends early.
///
/// A sound file may end inside its last cluster, as in QEMU: writers leave out the zeroes behind their last
/// bytes. It may also end before clusters with a refcount that nothing refers to: a crash leaves those. Only
/// references to whole clusters behind the end prove that data is lost.
extension Qcow2Driver {
    public func shortFileRule(ofChild child: Int) -> ShortFileRule {
        if child != 0, metadata.withLock({ $0.header.autoclear & Qcow2.Autoclear.dataFileRaw != 0 }) {
            return .zeroes
        }
        // In a cut file the missing rest of the last cluster is lost too.
        return isCut ? .lost : .lastUnitMayBeShort(unitBytes: layout.clusterSize)
    }

    public func mayBeCut() throws(BlockError) -> Bool {
        guard !data.isExternal else { return try data.node.length() < virtualSize }
        // Unreadable refcounts do not prove a cut: the L2 tables decide.
        return metadata.withLock { tables in
            (try? tables.countsClustersBehindEnd() || tables.mayEndInCompressedData()) ?? true
        }
    }

    public func endOfHiddenData() throws(BlockError) -> Int? {
        guard !data.isExternal else { return nil }
        return try metadata.withLock { tables throws(BlockError) in
            try tables.endOfSnapshotData(behind: try file.length())
        }
    }

    public func place(ofEncodedAt offset: Int) throws(BlockError) -> EncodedPlace? {
        let extent = try place(at: offset, limit: layout.clusterSize)
        switch extent.status {
        case .data(let host): return EncodedPlace(hostEnd: host + extent.length, count: extent.length)
        case .encoded:
            let range = try metadata.withLock { tables throws(BlockError) in
                try tables.compressedRange(at: GuestOffset(offset))
            }
            return EncodedPlace(
                hostEnd: range.upperBound.bytes - Qcow2.sectorBytes + 1,
                count: layout.clusterSize - offset & (layout.clusterSize - 1))
        case .zero, .unallocated: return EncodedPlace(hostEnd: 0, count: extent.length)
        }
    }

    /// Limits the runs that the search visits.
    private static let runsAtMost = 1 << 20

    /// Whether data is placed in clusters behind the end of the file. Always `false` for a writable image: a
    /// cut one is not opened for writing.
    private var isCut: Bool {
        let known = cutState.load(ordering: .relaxed)
        if known != 0 { return known == 2 }
        guard metadata.withLock({ $0.isReadOnly }) else { return false }
        // A damaged table counts as a cut. A read error may be temporary, so its answer is not kept.
        var answer = true
        do throws(BlockError) { answer = try mayBeCut() ? placesDataBehindEnd() : false } catch {
            if error.kind == .io { return true }
        }
        cutState.store(answer ? 2 : 1, ordering: .relaxed)
        return answer
    }

    private func placesDataBehindEnd() throws(BlockError) -> Bool {
        let length = try data.node.length()
        let end = layout.roundedUp(length)
        // In a data file, only guest offsets behind its end can be lost.
        var offset = data.isExternal ? min(end, virtualSize) : 0
        for _ in 0..<Self.runsAtMost where offset < virtualSize {
            let extent = try place(at: offset, limit: virtualSize - offset)
            var count = max(1, extent.length)
            switch extent.status {
            case .data(let host) where host + extent.length > end: return true
            case .encoded:
                guard let place = try place(ofEncodedAt: offset) else { break }
                if place.hostEnd > length { return true }
                count = max(1, min(count, place.count))
            default: break
            }
            offset += count
        }
        return false
    }
}

extension Qcow2Layout {
    /// `offset` rounded up to a cluster; the largest number on overflow.
    fileprivate func roundedUp(_ offset: Int) -> Int { offset.roundedUp(to: clusterSize) ?? Int.max }
}

extension Qcow2State {
    /// Limits the slices of refcounts that the search visits.
    private static let slicesAtMost = 1 << 16

    /// Whether clusters behind the end of the file have refcounts above zero, other than those of the L1
    /// table: an empty one need not be in the file.
    func countsClustersBehindEnd() throws(BlockError) -> Bool {
        let store = try refcounts()
        let l1Clusters = layout.clusters(at: HostOffset(header.l1Offset), bytes: header.l1Entries * 8)
        var cluster = layout.endCluster(ofFile: try file.length())
        let end = store.endOfBlocks
        for _ in 0..<Self.slicesAtMost {
            guard cluster < end else { return false }
            guard let slice = try store.slice(of: cluster) else {
                cluster = layout.firstCluster(ofBlock: layout.refcountBlock(of: cluster) + 1)
                continue
            }
            let bytes = slice.buffer.bytes
            if slice.first == 0, bytes.isZero {
                cluster += slice.entries
                continue
            }
            for entry in slice.first..<slice.entries
            where RefcountEntries.get(bytes, entry, order: layout.refcountOrder) != 0 {
                if !l1Clusters.contains(cluster + entry - slice.first) { return true }
            }
            cluster += slice.entries - slice.first
        }
        // The search reached its limit: the L2 tables decide.
        return true
    }

    /// Refuses a table that is only partly in a cut file. Where nothing else is missing, a partial table as
    /// the last cluster of the file is legal.
    func checkIsWhole(_ what: String, _ range: Range<Int>) throws(BlockError) {
        guard try range.upperBound > file.length() else { return }
        guard (try? countsClustersBehindEnd()) ?? true else { return }
        throw try file.cutError(what, end: range.upperBound, at: range.lowerBound)
    }
}
