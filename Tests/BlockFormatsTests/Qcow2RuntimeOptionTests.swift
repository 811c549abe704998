import BlockCore
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockFormats

/// What qcow2's options for an open image do.
@Suite struct Qcow2RuntimeOptionTests {
    private static func open(
        _ bytes: SparseBytes, _ options: [String: String]
    ) throws(BlockError) -> (TestStore, BlockNode) {
        let store = TestStore(["disk": bytes])
        var configuration = FormatConfiguration(Qcow2Driver.self, virtualSize: 0)
        for (key, value) in options { configuration.openOptions[key] = value }
        return (store, try configuration.open(in: store, settings: OpenSettings(readOnly: false)))
    }

    private static func driver(_ node: BlockNode) throws -> Qcow2Driver {
        try #require(node.format as? Qcow2Driver)
    }

    /// The bytes of cached L2 tables.
    private static func l2Bytes(_ node: BlockNode) throws -> Int {
        try driver(node).metadata.withLock { $0.l2Cache.cachedBytes }
    }

    // MARK: Overlap checks

    static let kinds = [
        "main-header", "active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table",
        "inactive-l1", "inactive-l2", "bitmap-directory",
    ]

    /// An image in which one cluster of metadata of that kind is not counted, so that the next write gets it.
    private static func image(uncounted kind: String) throws -> SparseBytes {
        var image = Qcow2Bytes(clusterBits: 12)
        let table = image.addSnapshot()
        let snapshotL1 = Int(image.get64(table))
        let inactive = image.addCluster()
        image.put64(UInt64(inactive), at: snapshotL1)
        let directory = addBitmap(to: &image)
        let places = [
            "main-header": 0, "active-l1": image.l1, "active-l2": image.l2,
            "refcount-table": image.refcountTable, "refcount-block": image.refcountBlock,
            "snapshot-table": table, "inactive-l1": snapshotL1, "inactive-l2": inactive,
            "bitmap-directory": directory,
        ]
        let place = try #require(places[kind])
        image.putRefcount(0, of: place / image.clusterSize)
        return image.bytes
    }

    /// A disabled bitmap of one table without clusters.
    private static func addBitmap(to image: inout Qcow2Bytes) -> Int {
        let bits = image.addCluster()
        let directory = image.addCluster()
        image.put64(UInt64(bits), at: directory)
        image.put32(1, at: directory + Qcow2Bytes.Bitmap.tableEntries)
        image.write([1, 12], at: directory + Qcow2Bytes.Bitmap.type)
        image.put16(1, at: directory + Qcow2Bytes.Bitmap.nameSize)
        image.write(Array("b".utf8), at: directory + Qcow2Bytes.Bitmap.extra)
        var data = SparseBytes(count: 24)
        data.putBig(1, at: Qcow2Bytes.Extension.bitmapCount, bytes: 4)
        data.putBig(32, at: Qcow2Bytes.Extension.directorySize)
        data.putBig(directory, at: Qcow2Bytes.Extension.directoryOffset)
        image.setExtensions([(Qcow2Bytes.ExtensionType.bitmaps, data.read(at: 0, count: data.count))])
        image.put64(Qcow2Bytes.Autoclear.bitmaps, at: Qcow2Bytes.Field.autoclear)
        return directory
    }

    private static func isRefused(_ kind: String, _ options: [String: String]) throws -> Bool {
        let (_, node) = try open(try image(uncounted: kind), options)
        defer { try? node.close() }
        do throws(BlockError) {
            try node.write([UInt8](repeating: 7, count: 4096).span.bytes, at: 4 * 4096)
            return false
        } catch {
            #expect(error.kind == .corrupt, "\(error)")
            return true
        }
    }

    @Test(arguments: kinds)
    func eachOverlapCheckIsOnOrOff(_ kind: String) throws {
        #expect(try !Self.isRefused(kind, ["overlap-check": "none"]))
        #expect(try Self.isRefused(kind, ["overlap-check": "none", "overlap-check.\(kind)": "on"]))
        #expect(try Self.isRefused(kind, ["overlap-check.template": "all"]))
        #expect(try !Self.isRefused(kind, ["overlap-check": "all", "overlap-check.\(kind)": "off"]))
        for other in Self.kinds where other != kind {
            let options = ["overlap-check": "none", "overlap-check.\(other)": "on"]
            #expect(try !Self.isRefused(kind, options), "by \(other)")
        }
    }

    @Test(arguments: kinds)
    func overlapTemplates(_ kind: String) throws {
        #expect(try Self.isRefused(kind, [:]) == (kind != "inactive-l2"))
        #expect(try Self.isRefused(kind, ["overlap-check": "cached"]) == (kind != "inactive-l2"))
        let constant = !["active-l2", "refcount-block", "inactive-l1", "inactive-l2"].contains(kind)
        #expect(try Self.isRefused(kind, ["overlap-check": "constant"]) == constant)
    }

    @Test("L1 tables of snapshots that overlap are not read again and again")
    func overlappingInactiveTables() throws {
        var image = Qcow2Bytes(clusterBits: 12)
        let table = image.addSnapshot()
        image.put32(UInt32(image.end / 8 + 1), at: table + Qcow2Bytes.Snapshot.l1Entries)
        let (_, node) = try Self.open(image.bytes, ["overlap-check": "all"])
        defer { try? node.close() }
        #expect(throws: BlockError.self) {
            try node.write([UInt8](repeating: 7, count: 4096).span.bytes, at: 4 * 4096)
        }
    }

    // MARK: Discarding without giving up the place

    @Test(arguments: [true, false], [true, false])
    func discardedClustersKeepTheirPlace(_ passes: Bool, _ zeroes: Bool) throws {
        let image = Qcow2Bytes(clusterBits: 12)
        let (store, node) = try Self.open(
            image.bytes, ["discard-no-unref": "on", "pass-discard-request": passes ? "on" : "off"])
        if zeroes {
            try node.writeZeroes(at: 0, count: 8192, flags: .mayUnmap)
        } else {
            try node.discard(at: 0, count: 8192)
        }
        #expect(try node.readBytes(at: 0, count: 8192) == [UInt8](repeating: 0, count: 8192))
        try node.flush()
        let file = try #require(store["disk"])
        for cluster in 0..<2 {
            let place = image.data + cluster * 4096
            let entry = file.read(at: image.l2 + cluster * 8, count: 8)
            #expect(entry == [0x80, 0, 0, 0, 0, 0, UInt8(place >> 8), 1])
            #expect(file.read(at: image.refcountBlock + place / 4096 * 2, count: 2) == [0, 1])
            let stored = UInt8(passes ? 0 : 0xa0 + cluster)
            #expect(file.read(at: place, count: 4096) == [UInt8](repeating: stored, count: 4096))
        }
        try node.write([UInt8](repeating: 9, count: 4096).span.bytes, at: 4096)
        try node.close()
        #expect(store["disk"]?.read(at: image.data + 4096, count: 1) == [9])
        #expect(store["disk"]?.count == image.end)
    }

    /// Without the option, both lose their places.
    @Test func discardedClustersGo() throws {
        let image = Qcow2Bytes(clusterBits: 12)
        let (store, node) = try Self.open(image.bytes, [:])
        try node.discard(at: 0, count: 8192)
        try node.close()
        let zero: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 1]
        #expect(store["disk"]?.read(at: image.l2, count: 16) == zero + zero)
        #expect(store["disk"]?.read(at: image.refcountBlock + 10, count: 4) == [0, 0, 0, 0])
    }

    @Test("what a snapshot shares is neither kept nor emptied")
    func sharedClusters() throws {
        let image = Qcow2Bytes(clusterBits: 12)
        let (store, node) = try Self.open(image.bytes, ["discard-no-unref": "on"])
        try node.createSnapshot(SnapshotInfo(id: "", name: "s"))
        try node.discard(at: 0, count: 8192)
        try node.flush()
        #expect(store["disk"]?.read(at: image.data, count: 4096) == [UInt8](repeating: 0xa0, count: 4096))
        try node.applySnapshot("s")
        #expect(try node.readBytes(at: 4096, count: 4096) == [UInt8](repeating: 0xa1, count: 4096))
        try node.close()
    }

    // MARK: Caches

    @Test func memoryOfUnusedTablesIsGivenBack() throws {
        let (_, node) = try Self.open(Qcow2Bytes(clusterBits: 12).bytes, [:])
        defer { try? node.close() }
        let driver = try Self.driver(node)
        _ = try node.readBytes(at: 0, count: 512)
        driver.cleanCaches()
        #expect(try Self.l2Bytes(node) == 4096, "it was used since the last time")
        driver.cleanCaches()
        #expect(driver.cachedBytes == 0)
        _ = try node.readBytes(at: 0, count: 512)
        driver.cleanCaches()
        _ = try node.readBytes(at: 0, count: 512)
        driver.cleanCaches()
        #expect(try Self.l2Bytes(node) == 4096)
        try node.write([UInt8](repeating: 1, count: 4096).span.bytes, at: 20480)
        for _ in 0..<3 { driver.cleanCaches() }
        #expect(driver.cachedBytes > 0, "changes stay")
        try node.flush()
        for _ in 0..<2 { driver.cleanCaches() }
        #expect(driver.cachedBytes == 0)
        #expect(try node.readBytes(at: 20480, count: 1) == [1])
    }

    @Test("the interval's thread cleans", .timeLimit(.minutes(1)))
    func cleaningInterval() throws {
        let (_, node) = try Self.open(Qcow2Bytes(clusterBits: 12).bytes, ["cache-clean-interval": "3600"])
        defer { try? node.close() }
        let driver = try Self.driver(node)
        _ = try node.readBytes(at: 0, count: 512)
        #expect(driver.cachedBytes > 0)
        let timer = try #require(driver.cleaner.withLock { $0 })
        #expect(timer.pauseNanoseconds == 3600 * 1_000_000_000)
        timer.callNow()
        #expect(driver.cachedBytes > 0, "it was used since the last time")
        timer.callNow()
        #expect(driver.cachedBytes == 0)
    }

    @Test(arguments: [("512", 512), ("4k", 4096), ("64k", 65536)])
    func entrySize(_ text: String, _ bytes: Int) throws {
        let (_, node) = try Self.open(Qcow2Bytes().bytes, ["l2-cache-entry-size": text])
        defer { try? node.close() }
        _ = try node.readBytes(at: 0, count: 512)
        #expect(try Self.l2Bytes(node) == bytes)
        try node.write([UInt8](repeating: 3, count: 200_000).span.bytes, at: 100_000)
        try node.flush()
        #expect(try node.readBytes(at: 100_000, count: 200_000) == [UInt8](repeating: 3, count: 200_000))
    }

    /// As QEMU shares them out, for a disk with one L2 table of 64 KiB.
    @Test(arguments: [
        ("", 65536, 2 << 20), ("cache-size=1M", 65536, (1 << 20) - 65536),
        ("cache-size=300k", 307_200 - 262_144, 262_144), ("cache-size=0", 0, 0),
        ("cache-size=1M,refcount-cache-size=512k", 1 << 19, 1 << 19),
        ("cache-size=1M,l2-cache-size=64k", 65536, (1 << 20) - 65536),
        ("l2-cache-size=1G", 65536, 2 << 20), ("l2-cache-size=1k,refcount-cache-size=3M", 1024, 3 << 20),
    ])
    func cacheSizes(_ text: String, _ l2: Int, _ refcounts: Int) throws {
        var options = try OptionTree.parse(text)
        let (_, node) = try Self.open(Qcow2Bytes().bytes, [:])
        defer { try? node.close() }
        let header = try Qcow2Driver.readHeader(try #require(node.file))
        let sizes = try Qcow2CacheSizes(&options, header)
        #expect(sizes.l2Bytes == l2 && sizes.refcountBytes == refcounts)
    }

    // MARK: Refusals

    @Test(arguments: [
        ("l2-cache-size=2M,cache-size=1M", "l2-cache-size may not exceed cache-size"),
        ("refcount-cache-size=2M,cache-size=1M", "refcount-cache-size may not exceed cache-size"),
        (
            "l2-cache-size=1M,refcount-cache-size=1M,cache-size=2M",
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
        ),
        (
            "l2-cache-entry-size=256",
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"
        ),
        (
            "l2-cache-entry-size=3k",
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"
        ),
        (
            "l2-cache-entry-size=128k",
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"
        ),
        ("cache-clean-interval=5000000000", "Cache clean interval too big"),
        ("cache-clean-interval=x", "Parameter 'cache-clean-interval' expects a number"),
        ("discard-no-unref=maybe", "Parameter 'discard-no-unref' expects 'on' or 'off'"),
        (
            "overlap-check=some",
            "Unsupported value 'some' for qcow2 option 'overlap-check'. Allowed are any of the following: "
                + "none, constant, cached, all"
        ),
        (
            "overlap-check=none,overlap-check.template=all",
            "Conflicting values for qcow2 options 'overlap-check' ('none') and 'overlap-check.template' "
                + "('all')"
        ),
        ("overlap-check.active-l1=x", "Parameter 'overlap-check.active-l1' expects 'on' or 'off'"),
        (
            "overlap-check.nothing=on",
            "Block format 'qcow2' does not support the option 'overlap-check.nothing'"
        ),
    ])
    func refusals(_ text: String, _ message: String) throws {
        try Self.expectRefusal(Qcow2Bytes().bytes, text, message)
    }

    @Test(arguments: [
        (
            "lazy-refcounts=on",
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
        ),
        ("discard-no-unref=on", "discard-no-unref is only supported since qcow2 version 3"),
    ])
    func refusalsOfVersion2(_ text: String, _ message: String) throws {
        try Self.expectRefusal(Qcow2Bytes(version: 2).bytes, text, message)
        let off = text.replacing("=on", with: "=off")
        let tree = try OptionTree.parse(off)
        let (_, node) = try Self.open(
            Qcow2Bytes(version: 2).bytes, Dictionary(uniqueKeysWithValues: tree.keys.map { ($0, "off") }))
        try node.close()
    }

    private static func expectRefusal(_ bytes: SparseBytes, _ text: String, _ message: String) throws {
        let tree = try OptionTree.parse(text)
        let options = Dictionary(uniqueKeysWithValues: tree.keys.map { ($0, tree[$0] ?? "") })
        do throws(BlockError) {
            _ = try open(bytes, options)
            Issue.record("\(text) was taken")
        } catch {
            #expect(error.message == message)
        }
    }
}
