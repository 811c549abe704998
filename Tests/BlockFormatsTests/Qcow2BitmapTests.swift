import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Bitmaps that a qcow2 image keeps.
@Suite struct Qcow2BitmapTests {
    private let image = BitmapImage(cluster: 4096, size: 1 << 20)

    // MARK: The set of bitmaps

    @Test("bitmaps are added, changed and removed, and stay so")
    func life() throws {
        let store = try image.create()
        try image.change(store) { keeper throws(BlockError) in
            try keeper.addBitmap("a", granularity: nil, isEnabled: true)
            try keeper.addBitmap("b", granularity: 65536, isEnabled: false)
            try keeper.addBitmap("gone", granularity: nil, isEnabled: true)
        }
        try image.change(store) { keeper throws(BlockError) in
            try keeper.removeBitmap("gone")
            try keeper.setBitmap("b", isEnabled: true)
        }
        #expect(
            try image.infos(store) == [
                BitmapInfo(name: "a", granularity: 4096, isEnabled: true, isInconsistent: false),
                BitmapInfo(name: "b", granularity: 65536, isEnabled: true, isInconsistent: false),
            ])
        try image.write(store, [5000..<5001])
        try image.change(store) { keeper throws(BlockError) in try keeper.setBitmap("b", isEnabled: false) }
        try image.write(store, [500_000..<500_001])
        #expect(try image.runs(store, "a") == [4096..<8192, 499_712..<503_808])
        #expect(try image.runs(store, "b") == [0..<65536])
        try image.change(store) { keeper throws(BlockError) in
            try keeper.clearBitmap("b")
            try keeper.mergeBitmap(try keeper.bitmap(named: "a"), into: "b")
            try keeper.clearBitmap("a")
        }
        #expect(try image.runs(store, "a").isEmpty)
        #expect(try image.runs(store, "b") == [0..<65536, 458_752..<524_288])
        try image.expectSound(store)
        try image.change(store) { keeper throws(BlockError) in
            try keeper.removeBitmap("a")
            try keeper.removeBitmap("b")
        }
        #expect(try image.infos(store).isEmpty)
        try image.expectSound(store)
        // Neither extension nor bit is left.
        let disk = try #require(store["disk"])
        let header = disk.read(at: 0, count: 4096)
        let type = ImageBytes.big(Qcow2Bytes.ExtensionType.bitmaps)
        #expect(disk.big(at: Qcow2Bytes.Field.autoclear) == 0)
        #expect(!header.indices.dropLast(3).contains { header[$0..<$0 + 4].elementsEqual(type) })
    }

    @Test("what cannot be is refused, with the reason")
    func refusals() throws {
        let store = try image.create(bitmaps: [512])
        let node = try image.open(store, readOnly: false)
        defer { try? node.close() }
        let long = String(repeating: "x", count: 1024)
        let name = "every 512"
        func refuses(_ reason: String, _ body: (any BitmapCapable) throws(BlockError) -> Void) {
            let error = blockError { () throws(BlockError) in try node.changeBitmaps(body) }
            #expect(error?.message.contains(reason) == true, "\(reason): \(error?.message ?? "no error")")
        }
        func refusesAdding(_ name: String, _ granularity: Int?, _ reason: String) {
            refuses(reason) { keeper throws(BlockError) in
                try keeper.addBitmap(name, granularity: granularity, isEnabled: true)
            }
        }
        refusesAdding(name, nil, "already exists")
        refusesAdding("", nil, "cannot be empty")
        for granularity in [0, 1, 256, 1000, 4 << 30] { refusesAdding("x", granularity, "power of 2") }
        refusesAdding(long, nil, "exceeds maximum")
        refuses("'x' not found") { keeper throws(BlockError) in try keeper.removeBitmap("x") }
        refuses("'x' not found") { keeper throws(BlockError) in try keeper.clearBitmap("x") }
        refuses("'x' not found") { keeper throws(BlockError) in try keeper.setBitmap("x", isEnabled: true) }
        refuses("'x' not found") { keeper throws(BlockError) in _ = try keeper.bitmap(named: "x") }
        let small = try DirtyBitmap(size: 512, granularity: 512)
        refuses("different sizes") { keeper throws(BlockError) in try keeper.mergeBitmap(small, into: name) }
        let reader = try image.open(try image.create(), readOnly: true)
        #expect(blockError { () throws(BlockError) in try reader.changeBitmaps { _ in } }?.kind == .readOnly)
        try reader.close()
    }

    @Test("version 2, disks without bytes and disks that are too large have no bitmaps")
    func impossible() throws {
        for (options, size) in [([("compat", "0.10")], 1 << 20), ([], 0), ([], 4 << 40)] {
            let odd = BitmapImage(cluster: 65536, size: size, more: options)
            let error = blockError { () throws(BlockError) in
                try odd.change(try odd.created()) { keeper throws(BlockError) in
                    try keeper.addBitmap("x", granularity: 512, isEnabled: true)
                }
            }
            #expect(error?.message.hasPrefix("Can't make bitmap 'x' persistent in 'disk': ") == true)
        }
    }

    // MARK: In use

    @Test("the file says 'in use' from before the first change until the image is closed")
    func inUse() throws {
        let store = try image.create(bitmaps: [4096])
        let before = store.files
        let node = try image.open(store, readOnly: false)
        _ = try node.readBytes(at: 0, count: 4096)
        try node.flush()
        #expect(store.files == before, "opening for writing and reading changes nothing")
        store.clearLog()
        try node.write([1].span.bytes, at: 0)
        // Durable before anything else is written.
        guard case .write(_, let offset, let bytes) = store.log.first,
            case .flush = store.log.dropFirst().first
        else { return #expect(Bool(false), "\(store.log)") }
        #expect(offset % 4096 == 0 && bytes.count == 40 && bytes[15] == 3)
        #expect(try image.infos(TestStore(store.files)).map(\.isInconsistent) == [true])
        try node.close()
        #expect(try image.infos(store).map(\.isInconsistent) == [false])
        #expect(try image.runs(store) == [0..<4096])
        try image.expectSound(store)
    }

    @Test("an image that is opened for writing and not written stays as it is")
    func untouched() throws {
        let store = try image.create(bitmaps: [4096, 65536])
        try image.write(store, [0..<5])
        let before = store.files
        try image.open(store, readOnly: false).close()
        #expect(store.files == before)
    }

    @Test("reopening stores, and records again")
    func reopening() throws {
        let store = try image.create(bitmaps: [4096])
        let node = try image.open(store, readOnly: false)
        try node.write([1].span.bytes, at: 0)
        try node.reopen(readOnly: true)
        #expect(try image.runs(TestStore(store.files)) == [0..<4096])
        try node.reopen(readOnly: false)
        try node.write([1].span.bytes, at: 100_000)
        #expect(try image.infos(TestStore(store.files)).map(\.isInconsistent) == [true])
        try node.close()
        #expect(try image.runs(store) == [0..<4096, 98_304..<102_400])
        try image.expectSound(store)
    }

    @Test("an inconsistent bitmap can only be removed")
    func inconsistent() throws {
        let store = try image.create(bitmaps: [4096])
        try image.abandon(store)
        #expect(try image.infos(store).map(\.isInconsistent) == [true])
        let name = "every 4096"
        func refuses(_ body: (any BitmapCapable) throws(BlockError) -> Void) {
            let error = blockError { () throws(BlockError) in try image.change(store, body) }
            #expect(error?.message == "Bitmap '\(name)' is inconsistent and cannot be used")
        }
        refuses { keeper throws(BlockError) in try keeper.clearBitmap(name) }
        refuses { keeper throws(BlockError) in try keeper.setBitmap(name, isEnabled: false) }
        refuses { keeper throws(BlockError) in _ = try keeper.bitmap(named: name) }
        let resized = blockError { () throws(BlockError) in
            let node = try image.open(store, readOnly: false)
            defer { try? node.close() }
            try node.resize(to: 2 << 20)
        }
        #expect(resized?.message == "Bitmap '\(name)' is inconsistent and cannot be used")
        try image.change(store) { keeper throws(BlockError) in try keeper.removeBitmap(name) }
        #expect(try image.infos(store).isEmpty)
        try image.expectSound(store, leaksAllowed: true)
    }

    // MARK: What else changes a disk

    @Test("bitmaps follow the size of the disk")
    func sizes() throws {
        let store = try image.create(bitmaps: [512, 65536])
        try image.change(store) { keeper throws(BlockError) in
            try keeper.addBitmap("idle", granularity: 4096, isEnabled: false)
            try keeper.mergeBitmap(try keeper.bitmap(named: "every 512"), into: "idle")
        }
        try image.write(store, [0..<512, 700_000..<1_048_576])
        for size in [40 << 20, 800_000 / 512 * 512, 512, 3 << 20] {
            let node = try image.open(store, readOnly: false)
            try node.resize(to: size)
            try node.close()
            try image.expectSound(store)
            #expect(try image.infos(store).allSatisfy { !$0.isInconsistent })
        }
        #expect(try image.runs(store, "every 512") == [0..<512])
        #expect(try image.runs(store, "every 65536") == [0..<65536])
        #expect(try image.runs(store, "idle").isEmpty)
        let node = try image.open(store, readOnly: false)
        #expect(blockError { () throws(BlockError) in try node.resize(to: 0) }?.kind == .unsupported)
        #expect(try node.length() == 3 << 20)
        try node.close()
    }

    @Test("going back to a snapshot is refused while there are bitmaps")
    func snapshots() throws {
        let store = try image.create(bitmaps: [512])
        let node = try image.open(store, readOnly: false)
        try node.createSnapshot(SnapshotInfo(id: "", name: "s"))
        let error = blockError { () throws(BlockError) in try node.applySnapshot("s") }
        #expect(error?.message == "Device has active dirty bitmaps")
        try node.changeBitmaps { keeper throws(BlockError) in try keeper.removeBitmap("every 512") }
        try node.applySnapshot("s")
        try node.deleteSnapshot(named: "s")
        try node.close()
        try image.expectSound(store)
    }

    // MARK: Recording

    static let recordings = [512, 4096, 65536].flatMap { cluster in
        [512, 4096, 1 << 20].map { (cluster: cluster, granularity: $0) }
    }

    /// Random operations; after each session the bits are exactly what the operations touched.
    @Test("bits are what was written", .timeLimit(.minutes(2)), arguments: recordings)
    func recording(cluster: Int, granularity: Int) throws {
        var configuration = Qcow2ConformanceTests.configuration(cluster: cluster, backing: cluster == 4096)
        configuration.bitmaps = [granularity]
        let store = TestStore()
        _ = try configuration.create(in: store)
        let image = BitmapImage(configuration)
        var abilities = DiskAbilities()
        (abilities.unit, abilities.compresses, abilities.resizes) = (cluster, true, true)
        var generator = OperationGenerator(
            seed: TestEffort.seed &+ UInt64(cluster + granularity), size: configuration.virtualSize,
            abilities: abilities)
        var model = TouchedGranules(granularity: granularity, size: configuration.virtualSize, unit: cluster)
        var node = try image.open(store, readOnly: false)
        for operation in generator.operations(TestEffort.scaled(80)) {
            guard let operation = operation.clipped(to: model.size) else { continue }
            if operation == .reopen {
                try node.close()
                #expect(try image.runs(store) == model.runs)
                try image.expectSound(store)
                node = try image.open(store, readOnly: false)
            } else {
                try node.perform(operation)
                model.note(operation)
            }
        }
        try node.close()
        #expect(try image.runs(store) == model.runs)
        try image.expectSound(store)
    }

    @Test("a bitmap of ones takes no clusters of bits, whatever its length")
    func allOnes() throws {
        for size in [4096 * 8 * 512, 4096 * 8 * 512 * 2 + 512] {
            let large = BitmapImage(cluster: 4096, size: size)
            let store = try large.create(bitmaps: [512])
            let node = try large.open(store, readOnly: false)
            try node.writeZeroes(at: 0, count: size)
            try node.close()
            #expect(try large.runs(store) == [0..<size])
            try large.expectSound(store)
        }
    }

    @Test("concurrent writers are all recorded")
    func concurrency() async throws {
        let store = try image.create(bitmaps: [4096])
        let node = try image.open(store, readOnly: false)
        await withTaskGroup(of: Void.self) { group in
            for thread in 0..<4 {
                group.addTask {
                    for step in 0..<32 {
                        try? node.write([1].span.bytes, at: (step * 8 + thread * 2) * 4096)
                    }
                }
            }
        }
        try node.close()
        #expect(try image.runs(store) == (0..<128).map { $0 * 8192..<$0 * 8192 + 4096 })
    }
}
