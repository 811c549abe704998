import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Making, applying and deleting snapshots, stopped anywhere: the image is as before or as after, and a check
/// finds nothing, without a repair.
@Suite struct Qcow2SnapshotCrashTests {
    enum Action: String, CaseIterable, Sendable { case create, apply, delete }

    static let configurations = [
        Qcow2ConformanceTests.configuration(cluster: 4096, compat: "0.10"),
        Qcow2ConformanceTests.configuration(cluster: 4096),
        Qcow2ConformanceTests.configuration(cluster: 512, refcountBits: 64),
        Qcow2ConformanceTests.configuration(cluster: 65536, compat: "0.10", backing: true),
        Qcow2ConformanceTests.configuration(cluster: 4096, more: [("lazy_refcounts", "on")]),
        Qcow2SubclusterTests.configuration(cluster: 16384, backing: true),
    ]

    private static func open(
        _ configuration: FormatConfiguration, _ store: TestStore, readOnly: Bool = true
    ) throws -> BlockNode {
        try configuration.open(
            in: store, settings: OpenSettings(readOnly: readOnly, forCheck: readOnly))
    }

    /// A disk with clusters of its own, shared ones, zeroes and compressed ones; snapshots "one" and "two".
    static func image(_ configuration: FormatConfiguration) throws -> TestStore {
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try open(configuration, store, readOnly: false)
        let unit = try #require(node.format).writeGranularity
        for (round, name) in ["one", "two", ""].enumerated() {
            for index in stride(from: 0, to: 9 - 3 * round, by: 1) {
                let bytes = Pattern.bytes(stamp: 10 * round + index, at: index * unit, count: unit)
                if index % 3 == 1 {
                    try ImageWriting.writeCompressed(bytes, at: index * unit, to: node)
                } else {
                    try node.write(bytes.span.bytes, at: index * unit)
                }
            }
            try node.writeZeroes(at: 10 * unit, count: unit)
            if !name.isEmpty { try node.createSnapshot(SnapshotInfo(id: "", name: name)) }
        }
        try node.close()
        return TestStore(store.files)
    }

    static func act(_ action: Action, _ configuration: FormatConfiguration, _ store: TestStore) throws {
        let node = try open(configuration, store, readOnly: false)
        defer { try? node.close() }
        switch action {
        case .create: try node.createSnapshot(SnapshotInfo(id: "", name: "new"))
        case .apply: try #require(node.format as? any SnapshotCapable).applySnapshot("one")
        case .delete: try node.deleteSnapshot(named: "two")
        }
        try node.close()
    }

    /// The disk and every snapshot.
    private static func contents(
        _ configuration: FormatConfiguration, _ store: TestStore
    ) throws -> [String: [UInt8]] {
        let node = try open(configuration, store)
        defer { try? node.close() }
        let snapshots = try #require(node.format as? any SnapshotCapable)
        var contents = ["": try node.readBytes(at: 0, count: try node.length())]
        for snapshot in try snapshots.snapshots() {
            try snapshots.selectSnapshot(id: nil, name: snapshot.name)
            contents[snapshot.name] = try node.readBytes(at: 0, count: try node.length())
        }
        return contents
    }

    private static func expectSound(
        _ configuration: FormatConfiguration, _ store: TestStore, leaks: Bool = false
    ) throws {
        let node = try open(configuration, store)
        defer { try? node.close() }
        var lines: [String] = []
        let result = try #require(node.format as? any Checkable).check(repair: .none) { lines.append($0) }
        guard result.corruptions == 0, result.checkErrors == 0, leaks || result.leaks == 0 else {
            throw Mismatch("\(lines)")
        }
    }

    @Test(.timeLimit(.minutes(2)), arguments: configurations, Action.allCases)
    func stopped(_ configuration: FormatConfiguration, _ action: Action) throws {
        let store = try Self.image(configuration)
        let before = try Self.contents(configuration, store)
        let after = TestStore(store.files)
        try Self.act(action, configuration, after)
        let states = [before, try Self.contents(configuration, after)]
        #expect(states[0] != states[1])
        try CrashPoints.replay(after.log, over: store.files, seed: TestEffort.seed) { files, _, moment in
            do {
                let left = TestStore(files)
                try Self.expectSound(configuration, left)
                let found = try Self.contents(configuration, left)
                guard states.contains(found) else { throw Mismatch("neither before nor after") }
                // The next one goes on from there.
                try Self.act(.create, configuration, left)
                try Self.expectSound(configuration, left)
            } catch { throw Mismatch("\(moment): \(error)") }
        }
    }

    @Test(
        "a call that fails leaves the one or the other", .timeLimit(.minutes(2)), arguments: configurations,
        Action.allCases)
    func failing(_ configuration: FormatConfiguration, _ action: Action) throws {
        let image = try Self.image(configuration)
        let before = try Self.contents(configuration, image)
        let whole = TestStore(image.files)
        whole.faults.disarm()
        try Self.act(action, configuration, whole)
        let states = [before, try Self.contents(configuration, whole)]
        for mode in FaultPlan.Mode.usual {
            for number in CrashPoints.chosen(from: whole.faults.calls, seed: TestEffort.seed) where number > 0
            {
                let store = TestStore(image.files)
                store.faults.arm(number, mode)
                do { try Self.act(action, configuration, store) } catch {
                    guard store.faults.failures > 0 else { throw error }
                }
                store.faults.disarm()
                let moment = "call \(number), \(mode)"
                do {
                    // Lazy refcounts: a session that could not be closed is repaired by the next.
                    try Self.open(configuration, store, readOnly: false).close()
                    try Self.expectSound(configuration, store, leaks: true)
                    guard states.contains(try Self.contents(configuration, store)) else {
                        throw Mismatch("neither before nor after")
                    }
                } catch { throw Mismatch("\(moment): \(error)") }
            }
        }
    }

    @Test("a snapshot that is refused changes nothing, and leaves nothing to repair")
    func refused() throws {
        let configuration = Qcow2ConformanceTests.configuration(cluster: 4096, refcountBits: 1)
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try Self.open(configuration, store, readOnly: false)
        try node.write([UInt8](repeating: 7, count: 9000).span.bytes, at: 0)
        try node.flush()
        let file = store["disk"]
        let error = #expect(throws: BlockError.self) {
            try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
        }
        #expect(error?.kind == .limit)
        #expect(store["disk"] == file)
        try node.write([UInt8](repeating: 8, count: 512).span.bytes, at: 0)
        try node.close()
        #expect(store["disk"]?.big(at: Qcow2Bytes.Field.incompatible) == 0, "not dirty")
        try Self.expectSound(configuration, store)
    }

    @Test("what is no longer used is used again")
    func spaceIsReused() throws {
        let configuration = Qcow2ConformanceTests.configuration(cluster: 4096)
        let store = try Self.image(configuration)
        var lengths: [Int] = []
        for _ in 0..<6 {
            let node = try Self.open(configuration, store, readOnly: false)
            for _ in 0..<5 {
                try node.createSnapshot(SnapshotInfo(id: "", name: "again"))
                try node.deleteSnapshot(named: "again")
            }
            try node.close()
            lengths.append(store["disk"]?.count ?? 0)
        }
        #expect(lengths[1...].allSatisfy { $0 == lengths[1] }, "\(lengths)")
        try Self.expectSound(configuration, store)
    }

    @Test("a failed reopening for writing leaves the tables read-only, like the file")
    func failedReopen() throws {
        var image = Qcow2Bytes()
        image.addSnapshot()
        image.put64(1, at: Qcow2Bytes.Field.incompatible)
        image.setL2(5, 1 << 40)
        let store = TestStore(["disk": image.bytes])
        let node = try ImageOpener(registry: store.registry([Qcow2Driver.self])).open("disk")
        #expect(throws: BlockError.self) { try node.reopen(readOnly: false) }
        let snapshots = try #require(node.format as? any SnapshotCapable)
        let error = #expect(throws: BlockError.self) {
            try snapshots.createSnapshot(SnapshotInfo(id: "", name: "new"))
        }
        #expect(error?.kind == .readOnly)
        // Only a read-only image lets a reader choose.
        try snapshots.selectSnapshot(id: nil, name: "one")
        try node.close()
        #expect(store["disk"] == image.bytes)
    }
}
