import BlockCore

/// The bitmaps of an open image, in the state that closing will store. Used under the driver's lock.
struct Qcow2BitmapSet {
    /// One bitmap.
    struct Item {
        /// The entry to be stored; its table's place is set only when the bitmap is stored.
        var entry: Qcow2BitmapEntry
        /// The entry in the file; `nil` for a new bitmap.
        var stored: Qcow2BitmapEntry?
        /// The bits, once they are loaded.
        var bits: DirtyBitmap?
        /// Whether this program set "in use" in the file's entry.
        var isMarked = false
        /// Whether the bits differ from the file's.
        var isChanged = false
        /// The reason why the bitmap cannot be used; `nil` where it can.
        var defect: String?

        var name: String { entry.nameText }
        /// Whether the bits cannot be relied on.
        var isInconsistent: Bool { defect != nil || (entry.flags.contains(.inUse) && !isMarked) }
        /// Whether the clusters of the stored entry may belong to something else. An entry with features that
        /// only this program lacks is not damaged.
        var isDamaged: Bool { defect != nil && defect != stored?.obstacle }
        var isEnabled: Bool { entry.flags.contains(.auto) }
        /// Whether writes are recorded in the bitmap.
        var records: Bool { isEnabled && !isInconsistent }
        /// Whether bits and table have to be written.
        var needsWriting: Bool { !isInconsistent && bits != nil && (isChanged || isMarked || stored == nil) }
        /// Whether the file promises that the bitmap has every write.
        var isPromised: Bool {
            guard let stored else { return false }
            return stored.flags.contains(.auto) && !stored.flags.contains(.inUse)
        }

        init(entry: Qcow2BitmapEntry, stored: Qcow2BitmapEntry? = nil, bits: DirtyBitmap? = nil) {
            self.entry = entry
            self.stored = stored
            self.bits = bits
        }

        /// A bitmap of a directory that is out of date.
        init(outdated entry: Qcow2BitmapEntry) {
            self.entry = entry
            self.entry.flags.insert(.inUse)
            defect = "a program that does not keep bitmaps wrote to the image"
        }

        var info: BitmapInfo {
            BitmapInfo(
                name: name, granularity: entry.granularity, isEnabled: isEnabled,
                isInconsistent: isInconsistent)
        }
    }

    var items: [Item]
    /// Removed bitmaps that the file's directory still has.
    var removed: [Item] = []
    /// Whether the header marks the bitmaps as up to date. If not, the clusters of the directory may hold
    /// anything.
    var isTrusted: Bool
    /// Whether the directory has to be written.
    var isChanged = false

    /// The index of the bitmap named `name`; of the last one, if the image has several.
    func index(of name: String) -> Int? { items.lastIndex { $0.name.isSameName(as: name) } }

    /// Whether writes have to be recorded, or the file must stop promising that they are.
    var wantsWrites: Bool { items.contains { $0.records || $0.isPromised } || hasPromisesRemoved }
    private var hasPromisesRemoved: Bool { removed.contains(where: \.isPromised) }

    /// Whether closing the image has to write bitmaps.
    var needsStoring: Bool {
        isChanged || items.contains(where: \.needsWriting)
    }
}

/// The number of clusters to which the bitmap tables refer that were read so far.
struct Qcow2BitmapClusters {
    var total = 0
    /// The bitmaps whose tables were counted, by their position in the directory.
    var counted: Set<Int> = []
}

extension Qcow2State {
    /// Whether the header marks the bitmaps as up to date.
    var bitmapsAreCurrent: Bool {
        layout.version >= 3 && header.autoclear & Qcow2.Autoclear.bitmaps != 0
    }

    /// The image's bitmaps; read when first needed.
    ///
    /// - Throws: `corrupt` or `limit` for a damaged directory. One that is out of date is read as far as
    ///   possible.
    func bitmapSet() throws(BlockError) -> Qcow2BitmapSet {
        if let bitmaps { return bitmaps }
        var set = Qcow2BitmapSet(items: [], isTrusted: true)
        if let data = header.extensionData(Qcow2.ExtensionType.bitmaps) {
            set.isTrusted = bitmapsAreCurrent
            do throws(BlockError) { set.items = try readBitmaps(data, isTrusted: set.isTrusted) } catch {
                if set.isTrusted || error.kind == .io { throw error.concerning(file.filename) }
            }
        }
        bitmaps = set
        return set
    }

    private func readBitmaps(_ data: [UInt8], isTrusted: Bool) throws(BlockError) -> [Qcow2BitmapSet.Item] {
        let fileClusters = layout.clusters(try file.length())
        var names: Set<[UInt8]> = []
        var items: [Qcow2BitmapSet.Item] = []
        let entries = try bitmapDirectory(data)
        let sharing = Qcow2BitmapEntry.sharingTables(entries, layout, fileClusters: fileClusters)
        for entry in entries {
            let isNew = names.insert(entry.name).inserted
            guard isTrusted else {
                if isNew, entry.isPlain { items.append(Qcow2BitmapSet.Item(outdated: entry)) }
                continue
            }
            var item = Qcow2BitmapSet.Item(entry: entry, stored: entry)
            item.defect =
                entry.damage(layout, virtualSize: header.virtualSize, fileClusters: fileClusters)
                ?? entry.obstacle
            if sharing.contains(entry.position) { item.defect = "its table is another one's too" }
            if !isNew { item.defect = "another one has the same name" }
            items.append(item)
        }
        return items
    }

    /// The entries of the directory that the extension points to.
    func bitmapDirectory(_ data: [UInt8]) throws(BlockError) -> [Qcow2BitmapEntry] {
        let place = try Qcow2BitmapExtension(data, layout)
        guard place.directoryBytes <= max(0, try file.length() - place.directoryOffset) else {
            throw BlockError(.corrupt, "qcow2: The bitmap directory reaches beyond the end of the file")
        }
        let bytes = try file.readBytes(at: place.directoryOffset, count: place.directoryBytes)
        let entries = try Qcow2BitmapEntry.parse(bytes, count: place.count)
        guard entries.reduce(0, { $0 + $1.tableEntries }) <= Qcow2.Limit.allBitmapTableEntries else {
            throw BlockError(.limit, "qcow2: The bitmap tables are too large together")
        }
        return entries
    }

    // MARK: Bits

    /// The bits of a bitmap, loaded when first needed.
    ///
    /// - Throws: `corrupt` when the table is damaged.
    func loadBitmap(_ index: Int) throws(BlockError) -> DirtyBitmap {
        var set = try bitmapSet()
        if let bits = set.items[index].bits { return bits }
        let bits = try readBits(set.items[index].entry)
        set.items[index].bits = bits
        bitmaps = set
        return bits
    }

    /// A copy of a bitmap's bits; nothing stays loaded for it.
    func copyOfBitmap(_ index: Int) throws(BlockError) -> DirtyBitmap {
        let item = try bitmapSet().items[index]
        if let bits = item.bits { return bits.copy() }
        return try readBits(item.entry)
    }

    private func readBits(_ entry: Qcow2BitmapEntry) throws(BlockError) -> DirtyBitmap {
        let bits = try DirtyBitmap(size: header.virtualSize, granularity: entry.granularity)
        let fileClusters = layout.clusters(try file.length())
        let table = try BigEndianTable.read(file, at: entry.tableOffset, count: entry.tableEntries)
        try countBitmapClusters(entry, table, fileClusters)
        let buffer = AlignedBuffer(count: layout.clusterSize)
        let span = layout.clusterSize * 8 * entry.granularity
        for (index, raw) in table.enumerated() where raw != 0 {
            let place = Qcow2BitmapTableEntry(raw: raw)
            if let defect = place.defect(layout, fileClusters: fileClusters) {
                throw corrupt("qcow2: Bitmap '\(entry.nameText)' is damaged: \(defect)")
            }
            if place.isAllOnes {
                // The table's size goes with the disk's, so this stays below 2^62.
                bits.set(index * span..<(index + 1) * span)
                continue
            }
            var bytes = buffer.mutableBytes
            try file.read(into: &bytes, at: place.hostOffset.bytes)
            bits.formUnion(bytes: buffer.bytes, at: index << layout.clusterBits)
        }
        return bits
    }

    /// Counts the clusters of a bitmap's table. A sound cluster of bits occurs once in one table, so that all
    /// bitmaps together need no more memory, or space when they are stored again, than the file's size.
    ///
    /// - Throws: `corrupt` when the tables that were read refer to more clusters than there are.
    private func countBitmapClusters(
        _ entry: Qcow2BitmapEntry, _ table: [UInt64], _ fileClusters: Int
    ) throws(BlockError) {
        if bitmapClusters.counted.insert(entry.position).inserted {
            for raw in table where Qcow2BitmapTableEntry(raw: raw).hostOffset != .zero {
                bitmapClusters.total += 1
            }
        }
        guard bitmapClusters.total <= fileClusters else {
            throw corrupt(
                "qcow2: Bitmap '\(entry.nameText)' is damaged: its table refers to clusters that are "
                    + "referred to already")
        }
    }

    // MARK: In use

    /// Prepares the bitmaps for the first change of guest data: loads those that record it, and marks every
    /// bitmap as in use that the file calls up to date. Durable on return.
    func beginRecording() throws(BlockError) -> [DirtyBitmap] {
        var set = try bitmapSet()
        try checkBitmapMemory(set.items.filter(\.records), virtualSize: header.virtualSize)
        for index in set.items.indices
        where set.items[index].records || (set.items[index].isPromised && !set.items[index].isInconsistent) {
            do throws(BlockError) { set.items[index].bits = try loadBitmap(index) } catch {
                if error.kind == .io { throw error }
                set.items[index].defect = error.message
                set.items[index].entry.flags.insert(.inUse)
            }
        }
        let recording = set.items.filter(\.records).compactMap(\.bits)
        try mark(&set) { $0.isPromised }
        bitmaps = set
        return recording
    }

    /// Limits the memory that an image's bitmaps take.
    private func checkBitmapMemory(
        _ items: [Qcow2BitmapSet.Item], virtualSize: Int
    ) throws(BlockError) {
        var bits = 0
        for item in items {
            bits += try DirtyBitmap.bitCount(size: virtualSize, granularity: item.entry.granularity)
            guard bits <= Qcow2.Limit.loadedBitmapBits else {
                throw BlockError(
                    .limit, "qcow2: The bitmaps need too much memory; use larger granularities",
                    path: file.filename)
            }
        }
    }

    /// Sets "in use" in the file's entries for which `matches` holds, durably.
    ///
    /// Written in place: an entry's flags lie in one sector, and each entry is valid whether the others are
    /// written or not.
    private func mark(
        _ set: inout Qcow2BitmapSet, _ matches: (Qcow2BitmapSet.Item) -> Bool
    ) throws(BlockError) {
        guard set.isTrusted, let data = header.extensionData(Qcow2.ExtensionType.bitmaps) else { return }
        let matching = (set.items + set.removed).filter {
            $0.stored?.flags.contains(.inUse) == false && matches($0)
        }
        if matching.isEmpty { return }
        // The directory must not be written over other metadata.
        try protectMetadata()
        let place = try Qcow2BitmapExtension(data, layout)
        try checkDirectoryIsOwn(place)
        var directory = try file.readBytes(at: place.directoryOffset, count: place.directoryBytes)
        for item in matching {
            guard let stored = item.stored else { continue }
            let flag = stored.position + Qcow2BitmapEntry.flagsOffset + 3
            guard directory.indices.contains(flag) else {
                throw corrupt("qcow2: The bitmap directory changed under way")
            }
            directory[flag] |= UInt8(truncatingIfNeeded: Qcow2BitmapEntry.Flags.inUse.rawValue)
        }
        try file.write(directory.span.bytes, at: place.directoryOffset)
        try barrier()
        Self.noteMarked(&set.items, matches)
        Self.noteMarked(&set.removed, matches)
    }

    private func checkDirectoryIsOwn(_ place: Qcow2BitmapExtension) throws(BlockError) {
        let store = try refcounts()
        let clusters = layout.clusters(at: HostOffset(place.directoryOffset), bytes: place.directoryBytes)
        for cluster in clusters {
            guard try store.refcount(of: cluster) == 1 else {
                throw condemn("The bitmap directory is in cluster \(cluster), which it has not to itself")
            }
        }
    }

    private static func noteMarked(
        _ items: inout [Qcow2BitmapSet.Item], _ matches: (Qcow2BitmapSet.Item) -> Bool
    ) {
        for index in items.indices
        where items[index].stored?.flags.contains(.inUse) == false && matches(items[index]) {
            items[index].stored?.flags.insert(.inUse)
            items[index].isMarked = items[index].bits != nil
            items[index].entry.flags.insert(.inUse)
        }
    }

    // MARK: Disks of another size

    /// Loads every bitmap before the disk's size changes, and marks it as in use: until it is stored, its
    /// table does not fit the size in the header.
    func beginBitmapResize(to size: Int) throws(BlockError) {
        var set = try bitmapSet()
        guard set.isTrusted, !set.items.isEmpty else { return }
        guard size > 0 else { throw Self.noDisk() }
        for item in set.items where item.isInconsistent { throw Self.inconsistent(item.name) }
        try checkBitmapMemory(set.items, virtualSize: max(size, header.virtualSize))
        for index in set.items.indices { set.items[index].bits = try loadBitmap(index) }
        try mark(&set) { _ in true }
        bitmaps = set
    }

    /// Resizes the loaded bitmaps to the size in the header.
    func endBitmapResize() {
        // Impossible sizes were refused before; storing tries again.
        for item in bitmaps?.items ?? [] { try? item.bits?.resize(to: header.virtualSize) }
    }

    static func inconsistent(_ name: String) -> BlockError {
        BlockError(
            .corrupt, "Bitmap '\(name)' is inconsistent and cannot be used",
            hint: "It can only be removed: 'bitmap --remove'")
    }
}
