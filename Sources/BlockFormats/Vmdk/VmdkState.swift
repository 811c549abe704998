import BlockCore

/// A part of the disk and the place of its bytes. Offsets are in bytes.
struct VmdkExtent {
    enum Content {
        case zero
        /// Plain bytes from an offset in the file on.
        case flat(hostOffset: Int)
        case sparse(VmdkGrainTables)
        case seSparse(VmdkSESparse)
        /// Compressed grains, append-only.
        case stream(VmdkStream)
        /// Not opened: the request allowed only the descriptor's file.
        case unopened
    }

    /// Its range on the disk.
    var guest: Range<Int>
    var content: Content
    /// The file that holds it. ``child`` is its number among the node's children; later files have none.
    var file: BlockNode?
    var child: Int?
    /// The name from the descriptor, or the resolved one.
    var filename: String
    /// The kind's word in the descriptor; empty when the extent is the image's own file.
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
/// Not thread-safe: the session's lock guards it. Before all other writes of a session, the descriptor gets a
/// new content ID, durably. The order of writes of an extent is documented at ``VmdkGrainTables``. Extents
/// are flushed one after the other.
struct VmdkState: SessionState {
    /// `nil` for a COW disk, which has no descriptor.
    var descriptor: VmdkDescriptorStore?
    var extents: [VmdkExtent]
    var isReadOnly: Bool
    /// Computes the content ID that follows another one.
    var nextCID: @Sendable (UInt32) -> UInt32 = { $0 &+ 1 }
    /// Whether the content ID was changed since the image was opened. The change is durable.
    var hasNewCID = false
    /// The content ID after the first change, once a caller has asked for it.
    var plannedCID: UInt32?
    /// Set while a job writes data that does not change the disk's contents.
    var keepsIdentity = false
    var writes: TableWrites?
    /// The places of the compressed grains of open grants, by the guest offsets of their units.
    var compressed: [Int: Range<Int>] = [:]
    /// Files made by resizing, which are not children of the node.
    var ownFiles: [BlockNode] = []
    /// Files made by a failed resize that the descriptor in the file may still name.
    var suspectFiles: [BlockNode] = []

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

    /// Divides the memory for tables among all extents.
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

    /// Writes the size to the descriptor of a disk in one file.
    mutating func noteSize(_ bytes: Int) throws(BlockError) {
        guard var changed = descriptor?.descriptor, var line = changed.extents.first?.extent else { return }
        line.sectors = bytes / Vmdk.sectorBytes
        changed.setExtent(0, line)
        changed.setGeometry(sectors: line.sectors)
        try descriptor?.replace(with: changed)
    }

    /// Called after a failed resize: writes the descriptor in memory to the file again, and gives up the
    /// files that it does not name.
    mutating func settleDescriptor() throws(BlockError) {
        guard !suspectFiles.isEmpty, let descriptor = descriptor?.descriptor else { return }
        try self.descriptor?.replace(with: descriptor)
        Self.abandon(suspectFiles)
        suspectFiles = []
    }

    /// Empties and closes new files without a reference. Empty files do not block another attempt.
    static func abandon(_ files: [BlockNode]) {
        for file in files {
            try? file.resize(to: 0)
            try? file.close()
        }
    }

    // MARK: Life

    func checkWritable() throws(BlockError) { try VmdkOpening.checkWritable(self) }

    /// Each session of changes gets a new content ID.
    mutating func prepareForWriting() {
        hasNewCID = false
        plannedCID = nil
    }

    /// Makes all changes durable: grains, then their entries. A failed extent does not stop the others.
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

    /// As ``commit()``, and removes unused space from the files.
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
        for file in ownFiles + suspectFiles {
            failures.note { () throws(BlockError) in try file.close() }
        }
        ownFiles = []
        suspectFiles = []
        try failures.throwFirst()
    }

    // MARK: Identity

    /// Gives the disk a new content ID before the first change of its contents, so that overlays detect the
    /// change.
    mutating func prepareChange() throws(BlockError) {
        guard !hasNewCID, !keepsIdentity else { return }
        if let next = plannedCID ?? descriptor?.newCID(nextCID) { try descriptor?.change("CID", to: next) }
        hasNewCID = true
    }

    /// The content ID after the next change. All changes of a session share one. 0 for a disk without one.
    mutating func nextIdentity() -> UInt32 {
        guard !hasNewCID else { return descriptor?.descriptor.cid ?? 0 }
        plannedCID = plannedCID ?? descriptor?.newCID(nextCID)
        return plannedCID ?? 0
    }
}
