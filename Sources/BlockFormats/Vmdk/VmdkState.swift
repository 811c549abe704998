import BlockCore

/// A part of the disk and what holds its bytes. Offsets are in bytes.
struct VmdkExtent {
    enum Content {
        case zero
        /// Plain bytes from an offset of the file on.
        case flat(hostOffset: Int)
        case sparse(VmdkGrainTables)
        case seSparse(VmdkSESparse)
        /// Compressed grains that can only be appended.
        case stream(VmdkStream)
        /// Only named: no other file than the descriptor was to be opened.
        case unopened
    }

    /// Where it is on the disk.
    var guest: Range<Int>
    var content: Content
    /// The file that holds it, and its number among the node's children; files that came later have none.
    var file: BlockNode?
    var child: Int?
    /// The name, as the descriptor states it or resolved.
    var filename: String
    /// The word in the descriptor; empty where the extent is the image's own file.
    var kindName: String

    var tables: VmdkGrainTables? { if case .sparse(let tables) = content { tables } else { nil } }

    var grainBytes: Int? {
        switch content {
        case .sparse(let tables): tables.grainBytes
        case .seSparse(let tables): tables.grainBytes
        case .stream(let stream): stream.grainBytes
        default: nil
        }
    }
}

/// What a VMDK driver keeps in memory. The driver's lock guards it.
struct VmdkState: FlushableTables {
    /// `nil` for a COW disk, which has none.
    var descriptor: VmdkDescriptorStore?
    var extents: [VmdkExtent]
    var isReadOnly: Bool
    /// The content ID has been changed since the image was opened, and is durable.
    var hasNewCID = false
    /// The content ID that the first change is to bring, once somebody has asked for it.
    var plannedCID: UInt32?
    /// Set while a job writes what the disk reads as anyway.
    var keepsIdentity = false
    /// Writes, zeroings and discards between planning and linking.
    var changesInFlight = 0
    var writes: TableWrites?
    /// Guest ranges of whole grains that are being filled.
    var fills: [Range<Int>] = []
    /// Files made by resizing, which are no children of the node.
    var ownFiles: [BlockNode] = []
    /// Files made by a resizing that failed, which the descriptor in the file may name nevertheless.
    var doubtfulFiles: [BlockNode] = []

    var virtualSize: Int { extents.last?.guest.upperBound ?? 0 }

    /// Lets the tables of all extents share the memory that there is for them.
    func shareTableMemory() {
        let share = Vmdk.Limit.keptTableBytes / max(1, extents.count)
        for extent in extents {
            switch extent.content {
            case .sparse(let tables): tables.keepTables(within: share)
            case .seSparse(let tables): tables.keepTables(within: share)
            default: break
            }
        }
    }

    /// The number of the extent at a guest offset inside the disk.
    func extentIndex(at offset: Int) -> Int {
        var (low, high) = (0, extents.count - 1)
        while low < high {
            let middle = (low + high) / 2
            if extents[middle].guest.upperBound <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// `range` grown to whole grains.
    func wholeGrains(_ range: Range<Int>) -> Range<Int> {
        guard !range.isEmpty, !extents.isEmpty else { return range }
        let first = extents[extentIndex(at: range.lowerBound)]
        let last = extents[extentIndex(at: range.upperBound - 1)]
        let before = (range.lowerBound - first.guest.lowerBound) % (first.grainBytes ?? 1)
        let behind = (range.upperBound - last.guest.lowerBound) % (last.grainBytes ?? 1)
        let rest = behind == 0 ? 0 : (last.grainBytes ?? 1) - behind
        return range.lowerBound - before..<min(range.upperBound + rest, last.guest.upperBound)
    }

    /// Says in the descriptor of a disk in one file how large it is.
    mutating func noteSize(_ bytes: Int) throws(BlockError) {
        guard var changed = descriptor?.descriptor, var line = changed.extents.first?.extent else { return }
        line.sectors = bytes / Vmdk.sectorBytes
        changed.setExtent(0, line)
        changed.setGeometry(sectors: line.sectors)
        try descriptor?.replace(with: changed)
    }

    /// After a failed resizing: makes the file's descriptor say what the one in memory does, and gives up the
    /// files that it then does not name.
    mutating func settleDescriptor() throws(BlockError) {
        guard !doubtfulFiles.isEmpty, let descriptor = descriptor?.descriptor else { return }
        try self.descriptor?.replace(with: descriptor)
        Self.abandon(doubtfulFiles)
        doubtfulFiles = []
    }

    /// Closes new files that nothing names. Empty ones are not in the way of another try.
    static func abandon(_ files: [BlockNode]) {
        for file in files {
            try? file.resize(to: 0)
            try? file.close()
        }
    }

    /// Everything durable: grains, then what refers to them. An extent that fails keeps none of the others.
    mutating func commit() throws(BlockError) {
        var failures = FirstFailure()
        for extent in extents {
            failures.note { () throws(BlockError) in
                if let tables = extent.tables { try tables.commit() } else { try extent.file?.flush() }
            }
        }
        try failures.throwFirst()
    }

    /// In the same order as ``commit()``, one extent after the other.
    mutating func takeChanges() throws(BlockError) -> TableWrites? {
        var parts: [TableWrites] = []
        for extent in extents {
            if let tables = extent.tables {
                do throws(BlockError) {
                    if let writes = try tables.takeChanges() { parts.append(writes) }
                } catch {
                    settle(failed: true)
                    throw error
                }
            } else if let file = extent.file {
                parts.append(TableWrites([], to: file))
            }
        }
        guard let first = parts.first else { return nil }
        return parts.count == 1 ? first : TableWrites(all: parts)
    }

    mutating func settle(failed: Bool) {
        for extent in extents { extent.tables?.settle(failed: failed) }
    }

    /// As ``commit()``, and leaves no room in the files that nothing refers to.
    mutating func finish() throws(BlockError) {
        var failures = FirstFailure()
        for extent in extents {
            failures.note { () throws(BlockError) in
                if let tables = extent.tables { try tables.tidyUp() } else { try extent.file?.flush() }
            }
        }
        try failures.throwFirst()
    }

    /// Gives the disk a new content ID before its contents change for the first time: who knows the old one
    /// must not take the disk for what it was.
    mutating func prepareChange(_ nextCID: (UInt32) -> UInt32) throws(BlockError) {
        guard !hasNewCID, !keepsIdentity else { return }
        if let next = plannedCID ?? descriptor?.newCID(nextCID) { try descriptor?.change("CID", to: next) }
        hasNewCID = true
    }

    /// The content ID that the disk has after its next change: in a session, all changes share one. 0 for a
    /// disk that has none.
    mutating func nextIdentity(_ nextCID: (UInt32) -> UInt32) -> UInt32 {
        guard !hasNewCID else { return descriptor?.descriptor.cid ?? 0 }
        plannedCID = plannedCID ?? descriptor?.newCID(nextCID)
        return plannedCID ?? 0
    }

    /// Gets ready for another session of changes.
    mutating func forgetIdentity() {
        hasNewCID = false
        plannedCID = nil
    }
}
