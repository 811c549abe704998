import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Machine state beside the disk, and the snapshots that take it with them.
@Suite struct Qcow2VMStateTests {
    static let kinds = [
        Qcow2ConformanceTests.configuration(cluster: 65536, backing: true),
        Qcow2ConformanceTests.configuration(cluster: 512, refcountBits: 8),
        Qcow2ConformanceTests.configuration(cluster: 4096, compat: "0.10", backing: true),
        Qcow2EncryptionTests.encrypted(Qcow2ConformanceTests.configuration(cluster: 4096), "luks"),
    ]

    private let store = TestStore()

    private static func open(
        _ configuration: FormatConfiguration, _ store: TestStore, readOnly: Bool = false,
        forCheck: Bool = false
    ) throws -> BlockNode {
        try configuration.open(in: store, settings: OpenSettings(readOnly: readOnly, forCheck: forCheck))
    }

    static func load(_ node: BlockNode, _ range: Range<Int>) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: range.count)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        try node.loadVMState(into: &span, at: range.lowerBound)
        return bytes
    }

    private static func check(
        _ configuration: FormatConfiguration, _ store: TestStore, repair: RepairMode = .none
    ) throws -> CheckResult {
        let node = try open(configuration, store, readOnly: repair == .none, forCheck: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: repair) { _ in }
    }

    private func expectSound(_ configuration: FormatConfiguration) throws {
        let result = try Self.check(configuration, store)
        #expect(result.corruptions + result.leaks + result.checkErrors == 0, "\(result)")
    }

    /// Odd pieces, in no order, over cluster and table borders; the disk does not notice.
    @Test(arguments: kinds)
    func savingAndLoading(_ configuration: FormatConfiguration) throws {
        let model = try configuration.create(in: store)
        let unit = Int(try #require(configuration.options.first { $0.name == "cluster_size" }?.value)) ?? 512
        var state = SparseBytes()
        var node = try Self.open(configuration, store)
        for (stamp, offset, count) in [
            (1, 3 * unit - 100, 2 * unit + 333), (2, 0, 17), (3, 5, unit), (4, 40 * unit + 1, 99 * unit),
        ] {
            let bytes = Pattern.bytes(stamp: stamp, at: offset, count: count, noise: true)
            try node.saveVMState(bytes.span.bytes, at: offset)
            state.write(bytes, at: offset)
        }
        for round in 0..<2 {
            #expect(
                try Self.load(node, 0..<state.count + 700) == state.read(at: 0, count: state.count + 700),
                "round \(round)")
            #expect(try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size))
            try node.close()
            try expectSound(configuration)
            node = try Self.open(configuration, store, readOnly: round == 0)
        }
        try node.close()
    }

    /// The snapshot has it, the current image no longer; going back brings it back, at the old disk size.
    @Test(arguments: kinds)
    func snapshotsTakeTheState(_ configuration: FormatConfiguration) throws {
        var model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        let state = Pattern.bytes(stamp: 7, at: 0, count: 90_001, noise: true)
        try node.saveVMState(state.span.bytes, at: 0)
        try node.createSnapshot(SnapshotInfo(id: "", name: "running"))
        #expect(try Self.load(node, 0..<state.count) == [UInt8](repeating: 0, count: state.count))
        try node.createSnapshot(SnapshotInfo(id: "", name: "later"))
        let snapshots = try #require(node.format as? any SnapshotCapable).snapshots()
        #expect(snapshots.map(\.vmStateSizeBytes) == [state.count, 0])
        let bytes = Pattern.bytes(stamp: 8, at: 0, count: 3000)
        try node.write(bytes.span.bytes, at: 0)
        let oldSize = model.size
        if !configuration.options.contains(where: { $0.value == "0.10" }) {
            try node.resize(to: model.size + (1 << 20))
        }
        try node.applySnapshot("running")
        #expect(try Self.load(node, 0..<state.count) == state)
        #expect(try node.length() == oldSize)
        model.resize(to: oldSize)
        #expect(try node.readBytes(at: 0, count: oldSize) == model.read(0..<oldSize))
        try node.deleteSnapshot(named: "running")
        try node.deleteSnapshot(named: "later")
        try node.close()
        try expectSound(configuration)
    }

    /// A snapshot that is only read has its state too, where the disk has another size now.
    @Test func selectedSnapshot() throws {
        let configuration = Self.kinds[1]
        _ = try configuration.create(in: store)
        let state = Pattern.bytes(stamp: 3, at: 0, count: 5000)
        let node = try Self.open(configuration, store)
        try node.saveVMState(state.span.bytes, at: 0)
        try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
        try node.resize(to: configuration.virtualSize + (3 << 20))
        try node.close()
        let reader = try Self.open(configuration, store, readOnly: true)
        defer { try? reader.close() }
        try #require(reader.format as? any SnapshotCapable).selectSnapshot(id: nil, name: "one")
        #expect(try Self.load(reader, 0..<5000) == state)
    }

    /// What a later program recorded of a snapshot stays when the table is written anew.
    @Test func extraDataIsKept() throws {
        let configuration = Self.kinds[1]
        _ = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        try node.createSnapshot(
            SnapshotInfo(id: "", name: "one", vmStateSizeBytes: 512, vmClockNanoseconds: 99))
        try node.close()
        typealias Snapshot = Qcow2Bytes.Snapshot
        var file = try #require(store["disk"])
        let table = file.big(at: Qcow2Bytes.Field.snapshotsOffset)
        let names = file.read(at: table + Snapshot.id, count: 4)
        let unknown = [UInt8](1...20)
        let extra = Snapshot.id - Snapshot.extra + unknown.count
        file.putBig(extra, at: table + Snapshot.extraSize, bytes: 4)
        file.putBig(12345, at: table + Snapshot.instructionCount)
        file.write(unknown + names, at: table + Snapshot.id)
        store["disk"] = file
        let later = try Self.open(configuration, store)
        try later.createSnapshot(SnapshotInfo(id: "", name: "two"))
        let kept = try #require(later.format as? any SnapshotCapable).snapshots().filter { $0.name == "one" }
        #expect(kept.map(\.instructionCount) == [12345])
        #expect(kept.map(\.vmStateSizeBytes) == [512])
        #expect(kept.map(\.vmClockNanoseconds) == [99])
        try later.close()
        let now = try #require(store["disk"])
        let place = now.big(at: Qcow2Bytes.Field.snapshotsOffset)
        #expect(place != table)
        #expect(now.read(at: place + Snapshot.id, count: 20) == unknown)
        try expectSound(configuration)
    }

    /// A disk that takes another size loses state that no snapshot has, and shows none of it.
    @Test(arguments: [-2048, 512, 5 << 20])
    func resizingDropsTheState(change: Int) throws {
        let configuration = Self.kinds[1]
        let model = try configuration.create(in: store)
        let node = try Self.open(configuration, store)
        let state = Pattern.bytes(stamp: 5, at: 0, count: 200_000, noise: true)
        try node.saveVMState(state.span.bytes, at: 0)
        let size = model.size + change
        try node.resize(to: size)
        #expect(try node.readBytes(at: 0, count: size) == [UInt8](repeating: 0, count: size))
        #expect(try Self.load(node, 0..<4096) == [UInt8](repeating: 0, count: 4096))
        try node.close()
        try expectSound(configuration)
    }

    @Test func refusals() throws {
        let configuration = Self.kinds[1]
        _ = try configuration.create(in: store)
        let node = try Self.open(configuration, store, readOnly: true)
        let bytes: [UInt8] = [1, 2, 3]
        #expect(
            blockError { () throws(BlockError) in try node.saveVMState(bytes.span.bytes, at: 0) }?.kind
                == .readOnly)
        try node.close()
        let writer = try Self.open(configuration, store)
        defer { try? writer.close() }
        for offset in [-1, Int.max - 1, 1 << 56] {
            let failure = blockError { () throws(BlockError) in
                try writer.saveVMState(bytes.span.bytes, at: offset)
            }
            #expect(failure?.kind == .limit)
        }
    }

    /// Stopped anywhere, the disk is as before, and the state is one that a flush or a snapshot vouched for.
    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func interrupted(_ configuration: FormatConfiguration) throws {
        let model = try configuration.create(in: store)
        let state = Pattern.bytes(stamp: 7, at: 0, count: 70_001, noise: true)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try Self.open(configuration, store)
                defer { try? node.close() }
                try node.saveVMState(state.span.bytes, at: 0)
                try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
            },
            verify: { store in
                let node = try Self.open(configuration, store)
                defer { try? node.close() }
                guard try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size) else {
                    throw Mismatch("the disk has other bytes")
                }
                let snapshots = try #require(node.format as? any SnapshotCapable).snapshots()
                if !snapshots.isEmpty {
                    try node.applySnapshot("one")
                    guard try Self.load(node, 0..<state.count) == state else {
                        throw Mismatch("the snapshot has another state")
                    }
                }
                try node.close()
                if configuration.checkMayRepairAfterCrash {
                    _ = try Self.check(configuration, store, repair: .all)
                }
                let result = try Self.check(configuration, store)
                guard result.corruptions + result.checkErrors == 0 else { throw Mismatch("\(result)") }
            })
    }
}
