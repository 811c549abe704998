import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What lay past the end of a disk that became smaller must not come back when it grows.
@Suite struct Qcow2ResizeTests {
    enum Tail: CaseIterable { case plain, compressed, sharedWithSnapshot, zeroAllocated }

    private func open(_ store: TestStore) throws -> BlockNode {
        try configuration.open(in: store, settings: OpenSettings(readOnly: false))
    }

    private let configuration = FormatConfiguration(
        Qcow2Driver.self, options: [("cluster_size", "4096")], virtualSize: 64 << 10)

    private func prepare(_ tail: Tail, in node: BlockNode) throws {
        let bytes = Pattern.bytes(stamp: 1, at: 8192, count: 4096)
        if tail == .compressed {
            try ImageWriting.writeCompressed(bytes, at: 8192, to: node)
        } else {
            try node.write(bytes.span.bytes, at: 8192)
        }
        if tail == .sharedWithSnapshot {
            let snapshots = try #require(node.format as? any SnapshotCapable)
            try snapshots.createSnapshot(SnapshotInfo(id: "", name: "before"))
        }
        if tail == .zeroAllocated { try node.writeZeroes(at: 8192, count: 4096, flags: []) }
        try node.write(Pattern.bytes(stamp: 2, at: 40_960, count: 4096).span.bytes, at: 40_960)
    }

    @Test(arguments: Tail.allCases)
    func growingShowsZeroes(_ tail: Tail) throws {
        let store = TestStore()
        _ = try configuration.create(in: store)
        var node = try open(store)
        try prepare(tail, in: node)
        let kept = try node.readBytes(at: 0, count: 9216)
        try node.resize(to: 9216)
        try node.close()
        node = try open(store)
        try node.resize(to: 64 << 10)
        #expect(try node.readBytes(at: 0, count: 9216) == kept)
        #expect(try node.readBytes(at: 9216, count: (64 << 10) - 9216).allSatisfy { $0 == 0 })
        try node.close()
    }

    /// Also when the shrinking was cut off by a crash.
    @Test(arguments: Tail.allCases)
    func growingAfterACrashShowsZeroes(_ tail: Tail) throws {
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try open(store)
        try prepare(tail, in: node)
        try node.flush()
        let files = store.files
        store.clearLog()
        try node.resize(to: 9216)
        let log = store.log
        try node.close()
        var replay = CrashReplay(files: files, log: log)
        for point in 0...log.count {
            replay.advance(to: point)
            let after = TestStore(replay.afterKill)
            let again = try open(after)
            guard try again.length() == 9216 else { continue }
            try again.resize(to: 64 << 10)
            let rest = try again.readBytes(at: 9216, count: (64 << 10) - 9216)
            #expect(rest.allSatisfy { $0 == 0 }, "killed after \(point) of \(log.count) events")
            try again.close()
        }
    }

    // MARK: Refcount blocks

    /// The refcount blocks that the table refers to: whether each has anything but zeroes.
    private func refcountBlocks(_ store: TestStore, cluster: Int) throws -> [Bool] {
        let file = try #require(store["disk"])
        let table = file.big(at: Qcow2Bytes.Field.refcountOffset)
        let entries = file.big(at: Qcow2Bytes.Field.refcountClusters, bytes: 4) * cluster / 8
        return (0..<entries).map { file.big(at: table + $0 * 8) }.filter { $0 != 0 }.map {
            file.read(at: $0, count: cluster).contains { $0 != 0 }
        }
    }

    /// 512-byte clusters have a refcount block for each 128 KiB.
    @Test(arguments: [512, 70_000, 1 << 20]) func shrinkingLeavesNoEmptyRefcountBlock(_ size: Int) throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "512")], virtualSize: 4 << 20)
        let store = TestStore()
        _ = try configuration.create(in: store)
        var node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        // From the end, so that what stays lies behind what goes.
        for part in (0..<32).reversed() {
            let bytes = Pattern.bytes(stamp: 1, at: part << 17, count: 1 << 17)
            try node.write(bytes.span.bytes, at: part << 17)
        }
        try node.close()
        let before = try refcountBlocks(store, cluster: 512)
        #expect(before.count >= 32 && before.allSatisfy { $0 })
        node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try node.resize(to: size / 512 * 512)
        try node.close()
        let after = try refcountBlocks(store, cluster: 512)
        #expect(after.allSatisfy { $0 }, "\(after.count { !$0 }) of \(after.count) are empty")
        #expect(after.count < before.count)
        node = try configuration.open(in: store, settings: OpenSettings(readOnly: true, forCheck: true))
        let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
        #expect(result.corruptions == 0 && result.leaks == 0, "\(result)")
        let written = (0..<32).flatMap { Pattern.bytes(stamp: 1, at: $0 << 17, count: 1 << 17) }
        let kept = size / 512 * 512
        #expect(try node.readBytes(at: 0, count: kept) == Array(written.prefix(kept)))
        try node.close()
    }
}
