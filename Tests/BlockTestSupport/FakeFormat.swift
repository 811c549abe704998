import BlockCore
import BlockFormats
import Synchronization

/// What is wrong with a ``FakeFormat`` image: the canaries of the conformance suite.
public enum FakeBug: String, Sendable, CaseIterable {
    /// None: the format as it should be.
    case none
    case mappingBeforeData = "mapping-before-data"
    case forgetsFlush = "forgets-flush"
    case losesWrite = "loses-write"
    case offByOne = "off-by-one"
    case ignoresErrors = "ignores-errors"
    case forgetsBacking = "forgets-backing"
    case sharesClusters = "shares-clusters"
    case racesOnAllocation = "races-on-allocation"
    case forgetsTable = "forgets-table"
    case losesTableOnFailure = "loses-table-on-failure"
    case racesOnFlush = "races-on-flush"
}

/// A small correct format for tests of what is above and below formats. The option `bug` makes it wrong.
///
/// Sector 0: magic, cluster size, virtual size, length and bytes of the backing name. Then a table of 8 bytes
/// for each of ``maximumClusters``: 0 unallocated, 1 zeroes, else the host offset. Clusters are appended,
/// never reused. Everything is big-endian.
public final class FakeFormat: FormatDriver {
    public static let name = "fake"
    public static let maximumClusters = 1024
    static let magic: UInt64 = 0x46414B45_464D5431
    static let tableOffset = 512

    struct State {
        var size: Int
        var table: [UInt64]
        var dirtySectors: Set<Int> = []
        var end: Int
        var writes = 0
    }

    private let file: BlockNode
    private let clusterBytes: Int
    private let bug: FakeBug
    private let state: Mutex<State>
    /// The number of writes in ``waitForAnotherWrite()``.
    private let racing = Monitor(0)
    /// How often the table was looked at.
    private let looks = Monitor(0)
    public let backing: BackingReference?

    private init(_ file: BlockNode, cluster: Int, backing: BackingReference?, bug: FakeBug, state: State) {
        self.file = file
        clusterBytes = cluster
        self.backing = backing
        self.bug = bug
        self.state = Mutex(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.bigEndian(UInt64.self, at: 0) == magic ? 100 : 0
    }

    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError)
        -> FakeFormat
    {
        let bug = options.take("bug").flatMap { FakeBug(rawValue: $0) } ?? .none
        let length = try request.file.length()
        let bytes = try request.file.readBytes(at: 0, count: tableOffset + maximumClusters * 8)
        let header = bytes.span.bytes
        guard header.bigEndian(UInt64.self, at: 0) == magic,
            let cluster = header.bigEndian(UInt32.self, at: 8),
            let size = header.bigEndian(UInt64.self, at: 16),
            let nameBytes = header.bigEndian(UInt32.self, at: 24), nameBytes <= 256,
            Int(cluster).isPowerOfTwo, size <= UInt64(cluster) * UInt64(maximumClusters)
        else { throw BlockError(.wrongFormat, "Not a fake image", path: request.file.filename) }
        let backing = nameBytes == 0 ? nil : header.text(32..<32 + Int(nameBytes))
        let table = (0..<maximumClusters).map { header.bigEndian(UInt64.self, at: tableOffset + $0 * 8) ?? 0 }
        guard table.allSatisfy({ $0 < 1 << 40 }) else {
            throw BlockError(.corrupt, "Bad table entry", path: request.file.filename)
        }
        let used = table.max().map { $0 > 1 ? Int($0) + Int(cluster) : 0 } ?? 0
        let end = max(length, used, tableOffset + maximumClusters * 8).roundedUp(to: Int(cluster)) ?? length
        return FakeFormat(
            request.file, cluster: Int(cluster),
            backing: backing.map { BackingReference(filename: $0, format: nil) }, bug: bug,
            state: State(size: Int(size), table: table, end: end))
    }

    public var virtualSize: Int { state.withLock { $0.size } }
    public var writeGranularity: Int { bug == .racesOnAllocation ? 1 : clusterBytes }
    public func describe() throws(BlockError) -> FormatInfo { FormatInfo(clusterSizeBytes: clusterBytes) }

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        let entry = state.withLock { $0.table[offset / clusterBytes] }
        if bug == .racesOnFlush {
            looks.withLock { $0 += 1 }
            looks.notifyAll()
        }
        let length = min(limit, clusterBytes - offset % clusterBytes)
        switch entry {
        case 0: return Extent(bug == .forgetsBacking ? .zero(hostOffset: nil) : .unallocated, length: length)
        case 1: return Extent(.zero(hostOffset: nil), length: length)
        default: return Extent(.data(hostOffset: Int(entry) + offset % clusterBytes), length: length)
        }
    }

    /// Every write is stored by ``storeEncoded(_:for:at:)``, so that it can be stored wrongly.
    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        let cluster = guest.lowerBound / clusterBytes
        let unit = cluster * clusterBytes..<(cluster + 1) * clusterBytes
        let part = guest.clamped(to: unit)
        let (entry, number) = state.withLock { state in
            state.writes += 1
            return (state.table[cluster], state.writes)
        }
        var grant = WriteGrant(
            inPlace: part, at: Int(entry) + part.lowerBound - unit.lowerBound, in: file)
        if bug == .losesWrite && number % 13 == 0 {
            grant.tag = Self.lost
        } else if entry <= 1 {
            let host = takeCluster(for: cluster)
            if bug == .mappingBeforeData {
                set(cluster, UInt64(host))
                try writeTable()
            }
            grant = WriteGrant(new: part, units: unit, at: host, in: file, rest: .old)
        }
        grant.form = .encrypted
        return grant
    }

    /// The tag of a write that is not stored.
    private static let lost = 1

    private func takeCluster(for cluster: Int) -> Int {
        state.withLock { state in
            let host = bug == .sharesClusters && cluster % 7 == 3 ? state.end - clusterBytes : state.end
            state.end = max(state.end, host + clusterBytes)
            return host
        }
    }

    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        if grant.tag == Self.lost { return }
        if bug == .racesOnAllocation && grant.isNew { waitForAnotherWrite() }
        let isCut = bug == .offByOne && (guest + bytes.byteCount) % clusterBytes == 0
        let kept = bytes.extracting(0..<bytes.byteCount - (isCut ? 1 : 0))
        try store(kept, at: grant.hostOffset(of: guest))
    }

    public func link(_ grant: WriteGrant) throws(BlockError) {
        if grant.isNew { set(grant.units.lowerBound / clusterBytes, UInt64(grant.hostOffset)) }
    }

    private func store(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        do throws(BlockError) { try file.write(bytes, at: offset) } catch {
            if bug != .ignoresErrors { throw error }
        }
    }

    private func set(_ cluster: Int, _ entry: UInt64) {
        state.withLock { state in
            state.table[cluster] = entry
            state.dirtySectors.insert(cluster / 64)
        }
    }

    /// The data must be durable before a table entry points to it.
    public func flush() throws(BlockError) {
        if bug != .forgetsFlush { try file.flush() }
        try writeTable()
        if bug != .forgetsFlush { try file.flush() }
    }

    private func writeTable() throws(BlockError) {
        let dirty = state.withLock { $0.dirtySectors }
        if bug == .racesOnFlush { hideTableForAMoment() }
        for sector in dirty.sorted() {
            let entries = state.withLock { state in
                state.dirtySectors.remove(sector)
                return Array(state.table[sector * 64..<sector * 64 + 64])
            }
            if bug == .forgetsTable { continue }
            var bytes = [UInt8]()
            for entry in entries { withUnsafeBytes(of: entry.bigEndian) { bytes.append(contentsOf: $0) } }
            do throws(BlockError) { try store(bytes.span.bytes, at: Self.tableOffset + sector * 512) } catch {
                if bug != .losesTableOnFailure {
                    _ = state.withLock { $0.dirtySectors.insert(sector) }
                }
                throw error
            }
        }
    }

    private func hideTableForAMoment() {
        let table = state.withLock { state in
            defer { state.table = state.table.map { _ in 0 } }
            return state.table
        }
        // Until somebody has looked, but no longer than a flush might take.
        let before = looks.withLock { $0 }
        _ = looks.wait(forNanoseconds: 1_000_000) { $0 > before }
        state.withLock { $0.table = table }
    }

    /// Waits until two writes to new clusters are here at once, but no longer than a write might take.
    private func waitForAnotherWrite() {
        racing.withLock { $0 += 1 }
        racing.notifyAll()
        _ = racing.wait(forNanoseconds: 2_000_000) { $0 > 1 }
        racing.withLock { $0 -= 1 }
    }

    public func willReopen(readOnly: Bool) throws(BlockError) {
        if readOnly { try close() }
    }

    public func close() throws(BlockError) {
        let isDirty = state.withLock { !$0.dirtySectors.isEmpty }
        if isDirty { try flush() }
    }
}

extension FakeFormat: Clearing {
    public var zeroGranularity: Int { clusterBytes }
    public var discardGranularity: Int { clusterBytes }

    public func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        for cluster in range.lowerBound / clusterBytes..<(range.upperBound + clusterBytes - 1) / clusterBytes
        {
            set(cluster, 1)
        }
        return ClearStep(.done, length: range.count)
    }
}

extension FakeFormat: Checkable {
    /// Every entry is aligned, inside the file and used once.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        var result = CheckResult()
        var seen: Set<UInt64> = []
        let length = try file.length()
        for entry in state.withLock({ $0.table }) where entry > 1 {
            let isInside = Int(clamping: entry) <= length - clusterBytes
            guard Int(clamping: entry) % clusterBytes == 0, isInside, seen.insert(entry).inserted else {
                result.corruptions += 1
                report("bad entry \(entry)")
                continue
            }
        }
        return result
    }
}

extension FakeFormat: Creatable {
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.clusterSize, .size, default: "4096", help: "Cluster size"),
            CreateOption(.backingFile, .string, help: "Backing file"),
            CreateOption(.backingFormat, .string, help: "Not kept"),
        ]
    }

    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let name = Array((options[.backingFile] ?? "").utf8)
        let cluster = options.integer(.clusterSize) ?? 4096
        let file = try context.createFile()
        var bytes = [UInt8](repeating: 0, count: tableOffset + maximumClusters * 8)
        var elements = bytes.mutableSpan
        var header = elements.mutableBytes
        header.storeBigEndian(magic, at: 0)
        header.storeBigEndian(UInt32(cluster), at: 8)
        header.storeBigEndian(UInt64(options.integer(.size) ?? 0), at: 16)
        header.storeBigEndian(UInt32(name.count), at: 24)
        header.copy(from: name.span.bytes, at: 32)
        try file.write(bytes.span.bytes, at: 0)
        try file.flush()
        try file.close()
    }
}
