import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A qcow2 image with bitmaps in a ``TestStore``.
struct BitmapImage {
    let configuration: FormatConfiguration

    init(_ configuration: FormatConfiguration) { self.configuration = configuration }

    init(cluster: Int, size: Int, more: [(String, String)] = []) {
        let options = [("cluster_size", "\(cluster)")] + more
        configuration = FormatConfiguration(
            Qcow2Driver.self, options: options.map { (name: $0.0, value: $0.1) }, virtualSize: size)
    }

    func create(bitmaps: [Int] = []) throws -> TestStore {
        var configuration = configuration
        configuration.bitmaps = bitmaps
        let store = TestStore()
        _ = try configuration.create(in: store)
        return store
    }

    /// An image without bitmaps; errors are the driver's.
    func created() throws(BlockError) -> TestStore {
        do { return try create() } catch { throw error as? BlockError ?? BlockError(.io, "\(error)") }
    }

    func open(_ store: TestStore, readOnly: Bool, forCheck: Bool = false) throws(BlockError) -> BlockNode {
        try configuration.open(in: store, settings: OpenSettings(readOnly: readOnly, forCheck: forCheck))
    }

    func change(
        _ store: TestStore, _ body: (any BitmapCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        let node = try open(store, readOnly: false)
        do throws(BlockError) { try node.changeBitmaps(body) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    /// Writes a byte to each byte of some ranges, in one session.
    func write(_ store: TestStore, _ ranges: [Range<Int>]) throws {
        let node = try open(store, readOnly: false)
        for range in ranges {
            try node.write([UInt8](repeating: 7, count: range.count).span.bytes, at: range.lowerBound)
        }
        try node.close()
    }

    /// Writes and never closes, as who is killed.
    func abandon(_ store: TestStore) throws {
        let copy = TestStore(store.files)
        let node = try open(copy, readOnly: false)
        try node.write([7].span.bytes, at: 0)
        try node.flush()
        store["disk"] = copy["disk"]
        try node.close()
    }

    func infos(_ store: TestStore) throws -> [BitmapInfo] {
        let node = try open(store, readOnly: true)
        defer { try? node.close() }
        return try node.bitmapKeeper().bitmaps()
    }

    /// What a bitmap has marked; the first one when not named.
    func runs(_ store: TestStore, _ name: String? = nil) throws -> [Range<Int>] {
        let node = try open(store, readOnly: true)
        defer { try? node.close() }
        let keeper = try node.bitmapKeeper()
        let first = try keeper.bitmaps().first?.name
        return try keeper.bitmap(named: name ?? first ?? "").runs
    }

    @discardableResult
    func check(_ store: TestStore, repair: RepairMode = .none) throws -> (CheckResult, [String]) {
        let node = try open(store, readOnly: repair == .none, forCheck: true)
        defer { try? node.close() }
        var lines: [String] = []
        let result = try #require(node.format as? any Checkable).check(repair: repair) { lines.append($0) }
        return (result, lines)
    }

    func expectSound(_ store: TestStore, leaksAllowed: Bool = false) throws {
        let (result, lines) = try check(store)
        #expect(result.corruptions == 0 && result.checkErrors == 0, "\(lines)")
        #expect(leaksAllowed || result.leaks == 0, "\(lines)")
    }
}

/// Which granules operations touched: what a bitmap must say, found the simple way.
struct TouchedGranules {
    let granularity: Int
    private(set) var size: Int
    /// Discards are of whole units.
    let unit: Int
    private var isTouched: [Bool] = []

    init(granularity: Int, size: Int, unit: Int) {
        (self.granularity, self.size, self.unit) = (granularity, size, unit)
        resize(to: size)
    }

    private mutating func resize(to size: Int) {
        let count = (size + granularity - 1) / granularity
        let kept = isTouched.prefix(count)
        isTouched = kept + [Bool](repeating: false, count: count - kept.count)
        self.size = size
    }

    private mutating func touch(_ range: Range<Int>) {
        guard !range.isEmpty else { return }
        for granule in range.lowerBound / granularity...(range.upperBound - 1) / granularity {
            isTouched[granule] = true
        }
    }

    mutating func note(_ operation: DiskOperation) {
        switch operation {
        case .write(let offset, let count, _, _), .writeCompressed(let offset, let count, _, _),
            .writeZeroes(let offset, let count, _):
            touch(offset..<offset + count)
        case .discard(let offset, let count):
            let lower = (offset + unit - 1) / unit * unit
            let upper = offset + count == size ? size : (offset + count) / unit * unit
            if lower < upper { touch(lower..<upper) }
        case .resize(let size): resize(to: size)
        default: break
        }
    }

    var runs: [Range<Int>] {
        var runs: [Range<Int>] = []
        for (granule, isSet) in isTouched.enumerated() where isSet {
            let range = granule * granularity..<min(size, (granule + 1) * granularity)
            if let last = runs.last, last.upperBound == range.lowerBound {
                runs[runs.count - 1] = last.lowerBound..<range.upperBound
            } else {
                runs.append(range)
            }
        }
        return runs
    }
}
