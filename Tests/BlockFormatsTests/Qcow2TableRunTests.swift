import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// Tables of regular images are written and looked through in long runs.
@Suite struct Qcow2TableRunTests {
    private static func sum(_ log: [StorageEvent]) -> (writes: Int, bytes: Int) {
        log.reduce(into: (0, 0)) { sum, event in
            guard case .write(_, _, let bytes) = event else { return }
            sum.0 += 1
            sum.1 += bytes.count
        }
    }

    @Test(arguments: [false, true])
    func preallocatedTablesAreWrittenInLongRuns(_ byResizing: Bool) throws {
        let store = TestStore()
        var configuration = FormatConfiguration(
            Qcow2Driver.self, options: byResizing ? [] : [("preallocation", "metadata")],
            virtualSize: byResizing ? 1 << 29 : 65 << 29)
        store.clearLog()
        try configuration.createImage(in: store)
        if byResizing {
            store.clearLog()
            let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
            try node.resize(to: 65 << 29, preallocation: .metadata)
            try node.close()
            configuration.virtualSize = 65 << 29
        }
        let (writes, bytes) = Self.sum(store.log)
        #expect(bytes > 64 << 16 && bytes < 12 << 20)
        #expect(writes < 70, "64 or 65 tables of 64 KiB and 17 refcount blocks")
        let node = try configuration.open(in: store, settings: OpenSettings(forCheck: true))
        defer { try? node.close() }
        let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
        #expect(result.corruptions + result.checkErrors + result.leaks == 0, "\(result)")
        #expect(result.allocatedClusters == (byResizing ? 64 : 65) << 13)
        #expect(result.fragmentedClusters == 0)
    }

    /// Space that the file got at once is what the clusters go to.
    @Test(arguments: ["falloc", "full", "metadata"]) func noSpaceIsTakenTwice(_ mode: String) throws {
        let store = TestStore()
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "4096"), ("preallocation", mode)],
            virtualSize: 5 << 20)
        try configuration.createImage(in: store)
        var options = CreateOptions(Qcow2Driver.createOptions)
        try options.set(name: "cluster_size", to: "4096")
        let full = try Qcow2Driver.measure(options, virtualSize: 5 << 20, source: nil).fullyAllocated
        #expect(try #require(store["disk"]).count <= full)
    }

    /// A file system that is full in the middle of it leaves a sound image.
    @Test(arguments: [3, 20, 60, 200]) func runsThatDoNotFit(_ blocks: Int) throws {
        let store = TestStore()
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "4096")], virtualSize: 1 << 21)
        try configuration.createImage(in: store)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        store.capacity = store.usedBlocks + blocks
        #expect(throws: BlockError.self) { try node.resize(to: 1 << 30, preallocation: .metadata) }
        store.capacity = nil
        try node.close()
        let reader = try configuration.open(in: store, settings: OpenSettings(forCheck: true))
        defer { try? reader.close() }
        let result = try #require(reader.format as? any Checkable).check(repair: .none) { _ in }
        #expect(result.corruptions + result.checkErrors == 0, "\(result)")
    }

    @Test("growing by whole tables, stopped anywhere", .timeLimit(.minutes(3)))
    func growthStopped() throws {
        let store = TestStore()
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "512")], virtualSize: 64 << 10)
        try configuration.createImage(in: store)
        let data = Pattern.bytes(stamp: 3, at: 0, count: 64 << 10)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try node.write(data.span.bytes, at: 0)
        try node.close()
        try checkInterruption(of: store.files) { store in
            let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
            do {
                try node.resize(to: 600 << 10, preallocation: .metadata)
                try node.close()
            } catch {
                try? node.close()
                throw error
            }
        } verify: { store in
            let node = try configuration.open(in: store, settings: OpenSettings(forCheck: true))
            defer { try? node.close() }
            let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
            guard result.corruptions == 0, result.checkErrors == 0 else { throw Mismatch("\(result)") }
            let seen = try node.readBytes(at: 0, count: try node.length())
            let added = seen.dropFirst(data.count)
            guard seen.prefix(data.count).elementsEqual(data), added.allSatisfy({ $0 == 0 }) else {
                throw Mismatch("other bytes")
            }
        }
    }

    @Test func continuations() {
        let layout = Qcow2Layout(version: 3, clusterBits: 9, refcountOrder: 4)
        let table = AlignedBuffer(count: 512)
        let first = L2Entry.data(at: HostOffset(0x7000))
        for broken in 1...64 {
            var bytes = table.mutableBytes
            for index in 0..<64 {
                let raw = first.raw + UInt64(index << 9)
                bytes.storeBigEndian(index == broken ? raw ^ 1 : raw, at: index * 8)
            }
            for limit in [0, 5, 8, 100] {
                let found = layout.continuation(of: first, 0, in: table.bytes, limit: limit)
                #expect(found == min(broken - 1, limit, 63))
            }
            let inside = min(broken - 1, 5)
            let from = L2Entry(raw: first.raw + UInt64(inside << 9))
            let rest = layout.continuation(of: from, inside, in: table.bytes, limit: 100)
            #expect(rest == min(broken - 1, 63) - inside)
        }
    }

    /// Entries that count on where the offset ends have reserved bits set: no part of the run before.
    @Test(arguments: [9, 16, 21]) func continuationsEndWithTheOffset(_ clusterBits: Int) {
        let layout = Qcow2Layout(version: 3, clusterBits: clusterBits, refcountOrder: 4)
        let step = UInt64(layout.clusterSize)
        let table = AlignedBuffer(count: 512)
        for followers in [0, 1, 7, 8, 9, 30, 62] {
            let last = L2Entry.offsetMask & ~(step - 1)
            let first = L2Entry(raw: last - UInt64(followers) * step | L2Entry.copiedFlag)
            var bytes = table.mutableBytes
            for index in 0..<64 { bytes.storeBigEndian(first.raw + UInt64(index) * step, at: index * 8) }
            #expect(layout.continuation(of: first, 0, in: table.bytes, limit: 100) == followers)
            #expect(layout.continuation(of: first, 0, in: table.bytes, limit: 5) == min(followers, 5))
        }
    }

    /// Groups of clusters are compared as one by one.
    @Test func agreement() {
        var random = SeededRandom(seed: 7)
        for round in 0..<200 {
            var window = ReferenceWindow(100..<164)
            let block = AlignedBuffer(count: 128, zeroed: true)
            var bytes = block.mutableBytes
            window.countActive(100..<130, isCopied: true)
            window.count(130..<140)
            if round % 3 == 0 { window.countActive(104..<110, isCopied: false) }
            for cluster in 0..<40 {
                bytes.storeBigEndian(UInt16(window.count(of: 100 + cluster)), at: cluster * 2)
            }
            let wrong = Int.random(in: 0..<64, using: &random)
            if round % 2 == 0 { bytes.storeBigEndian(UInt16(9), at: wrong * 2) }
            let naive = (0..<64).first { index in
                let stored = UInt64(block.bytes.bigEndian(UInt16.self, at: index * 2) ?? 0)
                let isActive = index < 30
                let isShared = round % 3 == 0 && (4..<10).contains(index)
                let flagsFit = !isActive || (isShared ? false : stored == 1)
                return stored != window.count(of: 100 + index) || !flagsFit
            }
            let found = window.agreeing(from: 100, with: block.bytes, entry: 0, limit: 64, order: 4)
            #expect(found == naive ?? 64, "round \(round)")
        }
    }

    /// Counts that fill their cells are told from runs that do not.
    @Test func fullCells() {
        var window = ReferenceWindow(0..<32)
        for _ in 0..<62 { window.countActive(3..<9, isCopied: false) }
        window.countActive(0..<40, isCopied: false)
        window.countActive(0..<32, isCopied: false)
        #expect(window.count(of: 2) == 2 && window.count(of: 3) == 64 && window.count(of: 31) == 2)
        #expect(window.contradicts(3, refcount: 1))
    }
}
