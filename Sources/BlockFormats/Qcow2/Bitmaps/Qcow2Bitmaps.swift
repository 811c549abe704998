import BlockCore
import Synchronization

/// Records changes of guest data in bitmaps. Thread-safe.
final class Qcow2ChangeRecorder: Sendable {
    private enum Phase: Int {
        /// No bitmap records changes.
        case idle
        /// Bitmaps record, but their entries in the file are not yet marked as in use.
        case armed
        case recording
    }

    private let phase = Atomic<Int>(Phase.idle.rawValue)
    private let active = Mutex<[DirtyBitmap]>([])

    var isIdle: Bool { phase.load(ordering: .acquiring) == Phase.idle.rawValue }
    var isArmed: Bool { phase.load(ordering: .acquiring) == Phase.armed.rawValue }

    /// Makes the next change mark the bitmaps in the file first, if `isWanted`; else stops recording.
    func arm(_ isWanted: Bool) {
        active.withLock { $0 = [] }
        phase.store((isWanted ? Phase.armed : Phase.idle).rawValue, ordering: .releasing)
    }

    func start(_ bitmaps: [DirtyBitmap]) {
        active.withLock { $0 = bitmaps }
        phase.store((bitmaps.isEmpty ? Phase.idle : Phase.recording).rawValue, ordering: .releasing)
    }

    func record(_ range: Range<Int>) {
        let bitmaps = active.withLock { $0 }
        for bitmap in bitmaps { bitmap.set(range) }
    }
}

/// Persistent dirty bitmaps (section "Bitmaps").
///
/// They are read when needed. The enabled ones are loaded, and marked as in use in the file, before the first
/// change of guest data, and stored when the image is closed.
extension Qcow2Driver: BitmapCapable {
    public var bitmapObstacle: String? {
        layout.version >= 3 ? nil : "Cannot store dirty bitmaps in qcow2 v2 files"
    }

    public func bitmaps() throws(BlockError) -> [BitmapInfo] {
        try metadata.withLock { tables throws(BlockError) -> [BitmapInfo] in
            try tables.bitmapSet().items.map(\.info)
        }
    }

    public func bitmap(named name: String) throws(BlockError) -> DirtyBitmap {
        try exclusively { tables throws(BlockError) -> DirtyBitmap in
            try tables.copyOfBitmap(try tables.usableBitmap(name))
        }
    }

    public func addBitmap(_ name: String, granularity: Int?, isEnabled: Bool) throws(BlockError) {
        let granularity = granularity ?? min(65536, max(4096, layout.clusterSize))
        try change { tables throws(BlockError) in
            try tables.addBitmap(name, granularity: granularity, isEnabled: isEnabled, bitmapObstacle)
        }
    }

    public func removeBitmap(_ name: String) throws(BlockError) {
        try change { tables throws(BlockError) in
            var set = try tables.bitmapSet()
            guard let index = set.index(of: name) else { throw Self.notFound(name) }
            var item = set.items.remove(at: index)
            if item.stored != nil {
                // Removing the bitmap would free clusters that something else uses.
                if !item.isDamaged, try tables.hasCorruptions() { item.defect = "the image is damaged" }
                set.removed.append(item)
            }
            set.isChanged = true
            tables.bitmaps = set
        }
    }

    public func clearBitmap(_ name: String) throws(BlockError) {
        try change { tables throws(BlockError) in
            let index = try tables.usableBitmap(name)
            try tables.loadBitmap(index).clearAll()
            tables.bitmaps?.items[index].isChanged = true
        }
    }

    public func setBitmap(_ name: String, isEnabled: Bool) throws(BlockError) {
        try change { tables throws(BlockError) in
            let index = try tables.usableBitmap(name)
            guard var set = tables.bitmaps, set.items[index].isEnabled != isEnabled else { return }
            if isEnabled {
                set.items[index].entry.flags.insert(.auto)
            } else {
                set.items[index].entry.flags.remove(.auto)
            }
            set.isChanged = true
            tables.bitmaps = set
        }
    }

    public func mergeBitmap(_ source: DirtyBitmap, into name: String) throws(BlockError) {
        try change { tables throws(BlockError) in
            let index = try tables.usableBitmap(name)
            try tables.loadBitmap(index).merge(source)
            tables.bitmaps?.items[index].isChanged = true
        }
    }

    public func replaceBitmap(_ name: String, with source: DirtyBitmap) throws(BlockError) {
        try change { tables throws(BlockError) in
            let index = try tables.usableBitmap(name)
            try tables.loadBitmap(index).replace(with: source)
            tables.bitmaps?.items[index].isChanged = true
        }
    }

    static func notFound(_ name: String) -> BlockError {
        BlockError(.notFound, "Dirty bitmap '\(name)' not found")
    }

    /// Changes the set of bitmaps when no write is under way.
    private func change(_ body: (Qcow2State) throws(BlockError) -> Void) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            if tables.isReadOnly {
                throw BlockError(.readOnly, "Block node is read-only", path: file.filename)
            }
            try body(tables)
            changes.arm(try tables.bitmapSet().wantsWrites)
        }
    }

    // MARK: Recording

    public var recordsChanges: Bool { !changes.isIdle }

    public func recordChange(in range: Range<Int>) throws(BlockError) {
        if changes.isArmed {
            try metadata.withLock { tables throws(BlockError) in
                guard changes.isArmed else { return }
                changes.start(try tables.beginRecording())
            }
        }
        changes.record(range)
    }
}

extension Qcow2State {
    /// The index of the bitmap named `name`, whose bits are valid.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one.
    func usableBitmap(_ name: String) throws(BlockError) -> Int {
        let set = try bitmapSet()
        guard let index = set.index(of: name) else { throw Qcow2Driver.notFound(name) }
        guard !set.items[index].isInconsistent else { throw Self.inconsistent(name) }
        return index
    }

    /// Whether a check finds more than leaks. Reads all tables of the file.
    fileprivate func hasCorruptions() throws(BlockError) -> Bool {
        if hasChanges { try commit() }
        let result = try check(.none) { _ in }
        return result.corruptions > 0 || result.checkErrors > 0
    }

    fileprivate func addBitmap(
        _ name: String, granularity: Int, isEnabled: Bool, _ obstacle: String?
    ) throws(BlockError) {
        if name.isEmpty { throw BlockError(.invalidArgument, "Bitmap name cannot be empty") }
        guard granularity.isPowerOfTwo,
            Qcow2.bitmapGranularityBits.contains(granularity.trailingZeroBitCount)
        else {
            throw BlockError(.invalidArgument, "Granularity must be power of 2 and at least 512")
        }
        var set = try bitmapSet()
        guard set.index(of: name) == nil else {
            throw BlockError(.exists, "Bitmap already exists: \(name)")
        }
        let nameBytes = name.rawBytes
        do throws(BlockError) {
            try checkRoom(for: nameBytes, granularity: granularity, in: set, obstacle)
        } catch {
            throw error.prefixed("Can't make bitmap '\(name)' persistent in '\(file.filename)'")
        }
        let entry = Qcow2BitmapEntry(
            flags: isEnabled ? .auto : [], granularityBits: UInt8(granularity.trailingZeroBitCount),
            name: nameBytes)
        let bits = try DirtyBitmap(size: header.virtualSize, granularity: granularity)
        set.items.append(Qcow2BitmapSet.Item(entry: entry, bits: bits))
        set.isChanged = true
        bitmaps = set
    }

    private func checkRoom(
        for name: [UInt8], granularity: Int, in set: Qcow2BitmapSet, _ obstacle: String?
    ) throws(BlockError) {
        if let obstacle { throw BlockError(.unsupported, obstacle) }
        guard header.virtualSize > 0 else { throw Self.noDisk() }
        guard name.count <= Qcow2.Limit.bitmapNameBytes else {
            throw BlockError(
                .invalidArgument,
                "Name length exceeds maximum (\(Qcow2.Limit.bitmapNameBytes) characters)")
        }
        guard set.items.count < Qcow2.Limit.bitmaps else {
            throw BlockError(
                .unsupported, "Maximum number of persistent bitmaps is already reached (\(set.items.count))")
        }
        let directory = set.items.reduce(Qcow2BitmapEntry.size(nameBytes: name.count)) { sum, item in
            sum + Qcow2BitmapEntry.size(nameBytes: item.entry.name.count, extraBytes: item.entry.extra.count)
        }
        let bits = try? DirtyBitmap.bitCount(size: header.virtualSize, granularity: granularity)
        guard let bits, directory <= Qcow2.Limit.bitmapDirectoryBytes,
            Qcow2BitmapEntry.tableEntries(forBits: bits, layout) <= Qcow2.Limit.bitmapTableEntries
        else {
            throw BlockError(
                .unsupported, "Too much space will be occupied by the bitmap. Use larger granularity")
        }
    }

    /// A table without entries is not allowed.
    static func noDisk() -> BlockError {
        BlockError(.unsupported, "A disk of 0 bytes cannot have bitmaps")
    }

    /// The autoclear bits that stay set when the image is changed: those of features that this program keeps
    /// up to date.
    func keptAutoclear() throws(BlockError) -> UInt64 {
        let raw = data.isExternal ? header.autoclear & Qcow2.Autoclear.dataFileRaw : 0
        let bit = header.autoclear & Qcow2.Autoclear.bitmaps
        guard bit != 0, header.extensionData(Qcow2.ExtensionType.bitmaps) != nil else { return raw }
        do throws(BlockError) { _ = try bitmapSet() } catch {
            // A directory that cannot be read cannot be kept up to date.
            if error.kind == .io { throw error }
            return raw
        }
        return bit | raw
    }

    /// Clears unknown autoclear bits before a repair, durably. The repair itself checks the features of the
    /// known bits.
    func clearUnknownAutoclear() throws(BlockError) {
        let known = Qcow2.Autoclear.bitmaps | Qcow2.Autoclear.dataFileRaw
        guard !isReadOnly, layout.version >= 3, header.autoclear & ~known != 0 else { return }
        header.autoclear &= known
        try writeHeaderFields()
        try barrier()
    }

    /// Refuses an operation that replaces the whole disk: bitmaps would have to record all of it as changed.
    func refuseWithBitmaps() throws(BlockError) {
        let set = try bitmapSet()
        if set.isTrusted && !set.items.isEmpty {
            throw BlockError(.unsupported, "Device has active dirty bitmaps", path: file.filename)
        }
    }
}
