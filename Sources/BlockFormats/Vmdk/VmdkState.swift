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

/// Descriptor and extents of an open image.
///
/// Not thread-safe: the session's lock guards it. Before all other writes of a session, the descriptor gets
/// a new content ID, durably; the order of those of an extent is told at ``VmdkGrainTables``. Extents are
/// flushed one after the other.
struct VmdkState: SessionState {
    /// `nil` for a COW disk, which has none.
    var descriptor: VmdkDescriptorStore?
    var extents: [VmdkExtent]
    var isReadOnly: Bool
    /// The content ID that comes after another one.
    var nextCID: @Sendable (UInt32) -> UInt32 = { $0 &+ 1 }
    /// The content ID has been changed since the image was opened, and is durable.
    var hasNewCID = false
    /// The content ID that the first change is to bring, once somebody has asked for it.
    var plannedCID: UInt32?
    /// Set while a job writes what the disk reads as anyway.
    var keepsIdentity = false
    var writes: TableWrites?
    /// Where the compressed grains of grants were put, by the guest offsets of their units.
    var compressed: [Int: Range<Int>] = [:]
    /// Files made by resizing, which are no children of the node.
    var ownFiles: [BlockNode] = []
    /// Files made by a resizing that failed, which the descriptor in the file may name nevertheless.
    var doubtfulFiles: [BlockNode] = []

    init(descriptor: VmdkDescriptorStore?, extents: [VmdkExtent], isReadOnly: Bool) {
        self.descriptor = descriptor
        self.extents = extents
        self.isReadOnly = isReadOnly
    }

    var backing: BackingReference? {
        guard let descriptor = descriptor?.descriptor, let hint = descriptor.parentHint else { return nil }
        return BackingReference(
            filename: hint, format: VmdkDriver.name, otherNames: descriptor.otherParents)
    }

    /// The size of the disk while it is about to become larger: that is not true yet.
    var sizeBeforeGrowth: Int?
    var virtualSize: Int { sizeBeforeGrowth ?? extents.last?.guest.upperBound ?? 0 }

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

    // MARK: Life

    func checkWritable() throws(BlockError) { try VmdkOpening.checkWritable(self) }

    /// Another session of changes brings another content ID.
    mutating func prepareForWriting() {
        hasNewCID = false
        plannedCID = nil
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
        if isReadOnly { return }
        var failures = FirstFailure()
        for extent in extents {
            failures.note { () throws(BlockError) in
                if let tables = extent.tables { try tables.tidyUp() } else { try extent.file?.flush() }
            }
        }
        failures.note { () throws(BlockError) in try settleDescriptor() }
        try failures.throwFirst()
    }

    mutating func closeFiles() throws(BlockError) {
        var failures = FirstFailure()
        for file in ownFiles + doubtfulFiles {
            failures.note { () throws(BlockError) in try file.close() }
        }
        ownFiles = []
        doubtfulFiles = []
        try failures.throwFirst()
    }

    // MARK: Identity

    /// Gives the disk a new content ID before its contents change for the first time: who knows the old one
    /// must not take the disk for what it was.
    mutating func prepareChange() throws(BlockError) {
        guard !hasNewCID, !keepsIdentity else { return }
        if let next = plannedCID ?? descriptor?.newCID(nextCID) { try descriptor?.change("CID", to: next) }
        hasNewCID = true
    }

    /// The content ID that the disk has after its next change: in a session, all changes share one. 0 for a
    /// disk that has none.
    mutating func nextIdentity() -> UInt32 {
        guard !hasNewCID else { return descriptor?.descriptor.cid ?? 0 }
        plannedCID = plannedCID ?? descriptor?.newCID(nextCID)
        return plannedCID ?? 0
    }
}
