import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// Sound images, damaged at random and repaired: what `check -r all` calls good, qemu-img calls good too, and
/// it has lost nothing that could be read before.
@Suite(.enabled(if: Peer.isExpected)) struct HostileRandomTests {
    private static let configurations = plain + more

    private static let plain: [FormatConfiguration] = [
        ("0.10", 512, 16, nil), ("0.10", 65536, 16, 300_000), ("1.1", 512, 64, nil),
        ("1.1", 4096, 16, 200_000),
        ("1.1", 4096, 1, nil), ("1.1", 65536, 16, nil), ("1.1", 1024, 8, 100_000),
    ].map { compat, cluster, bits, backing in
        FormatConfiguration(
            Qcow2Driver.self,
            options: [
                ("compat", compat), ("cluster_size", "\(cluster)"), ("refcount_bits", "\(bits)"),
            ],
            virtualSize: min(cluster * 40, 1 << 20), backingSize: backing)
    }

    /// Images with what only some have.
    private static let more: [FormatConfiguration] = [
        configuration(16384, [("extended_l2", "on")]),
        configuration(16384, backing: 300_000, bitmaps: [4096], [("extended_l2", "on")]),
        configuration(4096, bitmaps: [512, 65536], []),
        configuration(4096, [("data_file", "data")]),
        configuration(16384, backing: 200_000, [("data_file", "data"), ("extended_l2", "on")]),
        configuration(4096, bitmaps: [4096], [("data_file", "data"), ("data_file_raw", "on")]),
        configuration(4096, encryption: "luks", []), configuration(512, encryption: "aes", []),
        configuration(16384, encryption: "luks", [("extended_l2", "on")]),
    ]

    private static func configuration(
        _ cluster: Int, backing: Int? = nil, bitmaps: [Int] = [], encryption: String? = nil,
        _ options: [(name: String, value: String)]
    ) -> FormatConfiguration {
        var made = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "\(cluster)")] + options,
            virtualSize: min(cluster * 40, 1 << 20), backingSize: backing)
        made.bitmaps = bitmaps
        made.compresses = encryption == nil && !options.contains { $0.name == "data_file" }
        guard let encryption else { return made }
        made.options += [("encrypt.format", encryption), ("encrypt.key-secret", "s0")]
        if encryption == "luks" { made.options += [("encrypt.iter-time", "0")] }
        made.openOptions["encrypt.key-secret"] = "s0"
        made.secrets = SecretSource(["s0": KeyMaterial("secret")])
        return made
    }

    /// How many damaged images there are, of all configurations together.
    private static let images = TestEffort.isLong ? 4000 : 1000
    private static let rounds = (images + configurations.count - 1) / configurations.count

    @Test(.timeLimit(.minutes(10)), arguments: configurations.indices)
    func damageAtRandom(_ index: Int) throws {
        let configuration = Self.configurations[index]
        let fixture = try CommandFixture()
        var random = SeededRandom(seed: TestEffort.seed &* 1000 &+ UInt64(index))
        var repaired = 0
        for round in 0..<Self.rounds {
            let store = try image(configuration, seed: random.next())
            let sound = try #require(store["disk"])
            let fields = Qcow2Fields(sound)
            var damaged = sound
            let count = round % 3 == 0 ? 2 + random.number(in: 0..<4) : 1
            let damage = (0..<count).map { _ in fields.damage(&damaged, &random) }
            let subject = Subject(configuration, store, sound, damaged, fixture)
            do { repaired += try subject.repair() ? 1 : 0 } catch {
                Issue.record("\(configuration), round \(round), seed \(TestEffort.seed), \(damage): \(error)")
                try? damaged.store(at: "/tmp/platter-hostile-\(index)-\(round).qcow2")
            }
        }
        // Or nothing was proved.
        #expect(repaired > Self.rounds / 4, "only \(repaired) of \(Self.rounds) could be repaired")
    }

    /// A sound image with data, compressed data, snapshots and holes.
    private func image(_ configuration: FormatConfiguration, seed: UInt64) throws -> TestStore {
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        var abilities = DiskAbilities()
        abilities.unit = node.format?.writeGranularity ?? 512
        abilities.compresses = configuration.compresses
        var generator = OperationGenerator(seed: seed, size: configuration.virtualSize, abilities: abilities)
        for operation in generator.operations(12) { try node.perform(operation) }
        // With refcounts of one bit there is no sharing.
        try? node.perform(.createSnapshot("one"))
        for operation in generator.operations(6) { try node.perform(operation) }
        try node.close()
        return store
    }
}

/// One damaged image.
private struct Subject {
    let configuration: FormatConfiguration
    let store: TestStore
    let sound: SparseBytes
    let damaged: SparseBytes
    let fixture: CommandFixture

    init(
        _ configuration: FormatConfiguration, _ store: TestStore, _ sound: SparseBytes,
        _ damaged: SparseBytes,
        _ fixture: CommandFixture
    ) {
        self.configuration = configuration
        self.store = store
        self.sound = sound
        self.damaged = damaged
        self.fixture = fixture
    }

    /// Repairs it and judges the outcome. Answers whether all is said to be well.
    func repair() throws -> Bool {
        store["disk"] = sound
        let original = clusters()
        store["disk"] = damaged
        let before = clusters()
        guard let result = try check(.all) else { return false }
        guard result.corruptions == 0, result.checkErrors == 0 else { return false }
        // Where entries were given up, what they may have referred to is freed by another repair only.
        if result.leaks > 0 { _ = try check(.all) }
        guard let again = try check(.none), again.corruptions == 0, again.checkErrors == 0, again.leaks == 0
        else {
            throw Mismatch("a repair that says all is well is followed by findings: \(result)")
        }
        try judgeByQemu()
        let after = clusters()
        for (number, bytes) in original.enumerated() {
            guard let bytes, number < before.count, before[number] == bytes else { continue }
            guard number < after.count, after[number] == bytes else {
                throw Mismatch("guest cluster \(number) could be read before the repair")
            }
        }
        return true
    }

    /// What a check answers, told in lines; `nil` for an image that it cannot check.
    private func check(_ mode: RepairMode) throws -> CheckResult? {
        var lines = 0
        do throws(BlockError) {
            let settings = OpenSettings(readOnly: mode == .none, withoutBacking: true, forCheck: true)
            let node = try configuration.open(in: store, settings: settings)
            guard let checkable = node.format as? any Checkable else { return nil }
            let result = try checkable.check(repair: mode) { _ in lines += 1 }
            try node.close()
            if result.corruptions > 0, lines == 0 { throw BlockError(.io, "no word of what is lost") }
            return result
        } catch {
            guard error.path != nil else { throw Mismatch("the message names no file: \(error)") }
            return nil
        }
    }

    private func judgeByQemu() throws {
        try store["disk"]?.store(at: fixture.path("disk.qcow2"))
        try store["data"]?.store(at: fixture.path("data"))
        let isEncrypted = configuration.openOptions["encrypt.key-secret"] != nil
        let key = isEncrypted ? #""encrypt.key-secret":"s0","# : ""
        let file =
            #"json:{"driver":"qcow2","backing":null,\#(key)"file":{"driver":"file","filename":"disk.qcow2"}}"#
        let arguments = ["60", "qemu-img", "check", "--object", "secret,id=s0,data=secret", file]
        let judged = try fixture.run(URL(filePath: "/usr/bin/timeout"), arguments)
        guard judged.status == 0 else { throw Mismatch("qemu-img check: \(judged.status) \(judged.text)") }
    }

    /// The guest's data in pieces of a cluster; `nil` for what cannot be read.
    private func clusters() -> [[UInt8]?] {
        guard let node = try? configuration.open(in: store, settings: OpenSettings()) else { return [] }
        defer { try? node.close() }
        let unit = Int(configuration.options.first { $0.name == "cluster_size" }?.value ?? "") ?? 512
        return stride(from: 0, to: configuration.virtualSize, by: unit).map { offset in
            try? node.readBytes(at: offset, count: min(unit, configuration.virtualSize - offset))
        }
    }
}
