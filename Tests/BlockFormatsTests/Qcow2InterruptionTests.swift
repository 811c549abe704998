import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Creating, repairing and rebasing that is stopped anywhere.
@Suite struct Qcow2InterruptionTests {
    private static func open(
        _ configuration: FormatConfiguration, _ store: TestStore, readOnly: Bool = true,
        forCheck: Bool = false,
        withoutBacking: Bool = false
    ) throws(BlockError) -> BlockNode {
        try configuration.open(
            in: store,
            settings: OpenSettings(readOnly: readOnly, withoutBacking: withoutBacking, forCheck: forCheck))
    }

    private static func check(
        _ configuration: FormatConfiguration, _ store: TestStore, repair: RepairMode
    ) throws -> CheckResult {
        let node = try open(
            configuration, store, readOnly: repair == .none, forCheck: true, withoutBacking: true)
        defer { try? node.close() }
        return try #require(node.format as? any Checkable).check(repair: repair) { _ in }
    }

    // MARK: Writing

    /// A file that ended inside a sector could take a part of the next write to it when the power fails.
    @Test(arguments: [512, 65536])
    func aFileEndsAtASector(_ cluster: Int) throws {
        let configuration = Qcow2ConformanceTests.configuration(cluster: cluster)
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try Self.open(configuration, store, readOnly: false)
        for (offset, count) in [(0, 100), (cluster, 5), (3 * cluster - 1, 2)] {
            try node.write([UInt8](repeating: 7, count: count).span.bytes, at: offset)
            try node.flush()
            #expect(try #require(store["disk"]).count % 512 == 0)
        }
        try node.close()
    }

    // MARK: Creating

    static let created = [
        Qcow2ConformanceTests.configuration(cluster: 65536),
        Qcow2EncryptionTests.encrypted(Qcow2ConformanceTests.configuration(cluster: 4096), "luks"),
        Qcow2ConformanceTests.configuration(cluster: 512, refcountBits: 1),
        Qcow2ConformanceTests.configuration(cluster: 4096, compat: "0.10", backing: true),
        Qcow2ConformanceTests.configuration(cluster: 4096, more: [("preallocation", "metadata")]),
        Qcow2ConformanceTests.configuration(cluster: 4096, more: [("preallocation", "falloc")]),
        Qcow2ConformanceTests.configuration(cluster: 4096, more: [("preallocation", "full")]),
        Qcow2ConformanceTests.configuration(
            cluster: 4096, backing: true, more: [("compression_type", "zstd")]),
        Qcow2ConformanceTests.configuration(
            cluster: 4096, more: [("data_file", "data"), ("preallocation", "full")]),
        Qcow2ConformanceTests.configuration(
            cluster: 4096, more: [("data_file", "data"), ("data_file_raw", "on")]),
        Qcow2SubclusterTests.configuration(cluster: 16384, backing: true),
        Qcow2SubclusterTests.configuration(cluster: 16384, backing: true, [("preallocation", "metadata")]),
        Qcow2SubclusterTests.configuration(cluster: 16384, [("preallocation", "full")]),
        Qcow2SubclusterTests.configuration(
            cluster: 16384, [("data_file", "data"), ("preallocation", "falloc")]),
        Qcow2EncryptionTests.encrypted(
            Qcow2SubclusterTests.configuration(cluster: 16384, [("preallocation", "metadata")]), "luks"),
    ]

    /// What is there is no qcow2 image yet, or the whole empty image.
    @Test(.timeLimit(.minutes(2)), arguments: created)
    func creating(_ configuration: FormatConfiguration) throws {
        let store = TestStore()
        let model = try configuration.create(in: store)
        try checkInterruption(
            of: store.files.filter { $0.key == "base" },
            action: { store in try configuration.createImage(in: store) },
            verify: { store in
                guard store["disk"] != nil else { return }
                let node: BlockNode
                do throws(BlockError) { node = try Self.open(configuration, store) } catch {
                    // A header that is there refers to tables that are there.
                    guard error.kind == .wrongFormat else { throw error }
                    return
                }
                defer { try? node.close() }
                guard try node.length() == model.size else {
                    throw Mismatch("the size is \(try node.length())")
                }
                guard try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size) else {
                    throw Mismatch("the new image is not empty")
                }
                let result = try Self.check(configuration, store, repair: .none)
                guard result.corruptions == 0 && result.checkErrors == 0 else { throw Mismatch("\(result)") }
            })
    }

    // MARK: The backing file

    static let renamed: [(String, String)] = [
        ("base", "raw"), ("a-much-longer-name-than-before.qcow2", "qcow2"), ("", ""),
    ]

    /// The image names the old backing file or the new one, nothing between.
    @Test(.timeLimit(.minutes(2)), arguments: renamed, [512, 65536])
    func changingTheBackingFile(_ name: (String, String), _ cluster: Int) throws {
        let configuration = Qcow2ConformanceTests.configuration(cluster: cluster, backing: true)
        let store = TestStore()
        _ = try configuration.create(in: store)
        for file in Self.renamed.map(\.0) where !file.isEmpty { store[file] = store["base"] }
        let old = BackingReference(filename: "base", format: "raw")
        let new = name.0.isEmpty ? nil : BackingReference(filename: name.0, format: name.1)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try Self.open(configuration, store, readOnly: false, withoutBacking: true)
                defer { try? node.close() }
                try #require(node.format as? any Rebasable).changeBacking(to: new)
            },
            verify: { store in
                let node = try Self.open(configuration, store, withoutBacking: true)
                defer { try? node.close() }
                let now = node.format?.backing
                guard now == old || now == new else {
                    throw Mismatch("the backing file is \(String(describing: now))")
                }
                let result = try Self.check(configuration, store, repair: .none)
                guard result.corruptions == 0 && result.checkErrors == 0 else { throw Mismatch("\(result)") }
            })
    }

    // MARK: Repairing

    enum Damage: String, CaseIterable, Sendable {
        case leaks, lowRefcounts, wrongCopiedFlags, noRefcountTable, wildRefcountBlock, badSubclusters

        /// Whether images with those options can have it.
        func fits(_ configuration: FormatConfiguration) -> Bool {
            self != .badSubclusters || configuration.options.contains { $0.name == "extended_l2" }
        }
    }

    static let repaired = [
        Qcow2ConformanceTests.configuration(cluster: 4096),
        Qcow2ConformanceTests.configuration(cluster: 512, refcountBits: 8, backing: true),
        Qcow2ConformanceTests.configuration(cluster: 65536, compat: "0.10"),
        Qcow2SubclusterTests.configuration(cluster: 16384, backing: true),
        Qcow2EncryptionTests.encrypted(Qcow2SubclusterTests.configuration(cluster: 16384), "luks"),
    ]

    /// A repair that is stopped and done again ends with a sound image and the same bytes.
    @Test(.timeLimit(.minutes(3)), arguments: repaired, Damage.allCases)
    func repairing(_ configuration: FormatConfiguration, _ damage: Damage) throws {
        guard damage.fits(configuration) else { return }
        let store = TestStore()
        var model = try configuration.create(in: store)
        try fill(configuration, store, &model)
        var file = try #require(store["disk"])
        try Qcow2Damage.apply(damage, to: &file)
        store["disk"] = file
        let before = try Self.check(configuration, store, repair: .none)
        #expect(before.corruptions + before.leaks + before.checkErrors > 0)
        try checkInterruption(
            of: store.files,
            action: { store in
                let result = try Self.check(configuration, store, repair: .all)
                guard store.faults.failures > 0 || result.corruptions + result.leaks == 0 else {
                    throw Mismatch("not all was repaired: \(result)")
                }
            },
            verify: { store in
                _ = try Self.check(configuration, store, repair: .all)
                let after = try Self.check(configuration, store, repair: .none)
                guard after.corruptions + after.leaks + after.checkErrors == 0 else {
                    throw Mismatch("\(after)")
                }
                let node = try Self.open(configuration, store)
                defer { try? node.close() }
                guard try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size) else {
                    throw Mismatch("the disk has other bytes")
                }
                let snapshot = try #require(model.snapshots.first)
                try #require(node.format as? any SnapshotCapable).selectSnapshot(id: nil, name: snapshot.name)
                guard
                    try node.readBytes(at: 0, count: model.size)
                        == snapshot.contents.read(
                            at: 0, count: model.size)
                else { throw Mismatch("the snapshot has other bytes") }
            })
    }

    /// Plain, compressed and zero clusters, and a snapshot that shares some of them.
    private func fill(
        _ configuration: FormatConfiguration, _ store: TestStore, _ model: inout ReferenceDisk
    ) throws {
        let node = try Self.open(configuration, store, readOnly: false)
        let unit = try #require(node.format).writeGranularity
        for index in 0..<min(12, model.size / unit) {
            let bytes = Pattern.bytes(stamp: index, at: index * unit, count: unit)
            model.write(bytes, at: index * unit)
            if index % 3 == 1 && configuration.compresses {
                try ImageWriting.writeCompressed(bytes, at: index * unit, to: node)
            } else {
                try node.write(bytes.span.bytes, at: index * unit)
            }
            if index == 2 {
                let snapshots = try #require(node.format as? any SnapshotCapable)
                try snapshots.createSnapshot(SnapshotInfo(id: "", name: "one"))
                model.createSnapshot("one")
            }
        }
        let bytes = Pattern.bytes(stamp: 99, at: 0, count: unit)
        model.write(bytes, at: 0)
        try node.write(bytes.span.bytes, at: 0)
        try node.close()
    }
}

/// Breaks qcow2 images in known ways, with the format's layout from its specification.
enum Qcow2Damage {
    static func apply(_ damage: Qcow2InterruptionTests.Damage, to file: inout SparseBytes) throws {
        typealias Field = Qcow2Bytes.Field
        let cluster = 1 << file.big(at: Field.clusterBits, bytes: 4)
        let l1 = file.big(at: Field.l1Offset)
        let refcountTable = file.big(at: Field.refcountOffset)
        let isV3 = file.big(at: Field.version, bytes: 4) == 3
        let stride = isV3 && file.hasIncompatible(Qcow2Bytes.Incompatible.extendedL2) ? 16 : 8
        let refcountBytes = isV3 ? max(1, (1 << file.big(at: Field.refcountOrder, bytes: 4)) / 8) : 2
        let block = file.big(at: refcountTable)
        switch damage {
        case .leaks:
            let end = (file.count + cluster - 1) / cluster
            file.resize(to: (end + 2) * cluster)
            for index in end..<end + 2 {
                file.write(
                    [UInt8](repeating: 0, count: refcountBytes - 1) + [1], at: block + index * refcountBytes)
            }
        case .lowRefcounts: file.zero(block + 4 * refcountBytes..<block + 7 * refcountBytes)
        case .wrongCopiedFlags:
            let table = file.big(at: l1) & Qcow2Bytes.offsetMask
            for place in Swift.stride(from: table, to: table + 4 * stride, by: stride) {
                let entry = UInt64(bitPattern: Int64(file.big(at: place)))
                if entry & Qcow2Bytes.compressed == 0 { file.putBig(entry ^ Qcow2Bytes.copied, at: place) }
            }
        case .noRefcountTable: file.zero(refcountTable..<refcountTable + cluster)
        case .badSubclusters:
            // The first entry of the active table, and of the snapshot's, says "zero" of what is data.
            let snapshot = file.big(at: Field.snapshotsOffset)
            for tables in [l1, file.big(at: snapshot + Qcow2Bytes.Snapshot.l1Offset)] {
                let bitmap = (file.big(at: tables) & Qcow2Bytes.offsetMask) + 8
                let allocated = file.big(at: bitmap + 4, bytes: 4)
                file.putBig(allocated, at: bitmap, bytes: 4)
            }
        case .wildRefcountBlock: file.putBig(0xff00_0000_0001, at: refcountTable)
        }
    }
}
