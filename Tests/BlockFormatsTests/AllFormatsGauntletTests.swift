import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// Every registered format under damage: seeds cut off anywhere, and with bytes changed at random, are
/// opened, mapped, read, checked, repaired and changed. Nothing may trap or hang; errors are an answer.
@Suite struct AllFormatsGauntletTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Fixtures/fuzz")
    private static let diskBytes = 192 << 10

    static let formats = StandardFormats.all.map { $0.name }

    /// Small images of a format: what our own driver makes, or else the fuzzer's kept seeds.
    private static func seeds(_ name: String) throws -> [SparseBytes] {
        var seeds: [SparseBytes] = []
        if let made = try? made(name) { seeds.append(made) }
        if name == "asif" { seeds.append(AsifImage.make()) }
        if name == "qcow" { seeds.append(try #require(QcowImage.make()["disk"])) }
        let files = try? FileManager.default.contentsOfDirectory(
            at: folder.appending(path: name), includingPropertiesForKeys: nil)
        for file in (files ?? []).sorted(by: { $0.path < $1.path }).prefix(4) {
            seeds.append(SparseBytes([UInt8](try Data(contentsOf: file))))
        }
        return seeds
    }

    /// An image with a little data, where the format makes images without more to be said.
    private static func made(_ name: String) throws -> SparseBytes? {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry(StandardFormats.all))
        var options = try opener.createOptions(format: name, filename: "disk")
        try options.set(.size, to: String(diskBytes))
        try opener.create("disk", format: name, options: options)
        let node = try opener.open("disk", format: name, settings: OpenSettings(readOnly: false))
        try node.write(Pattern.bytes(stamp: 1, at: 0, count: 5000).span.bytes, at: 1000)
        try node.close()
        return store["disk"]
    }

    @Test func everyFormatHasSeeds() throws {
        for name in Self.formats where name != "luks" {
            #expect(try !Self.seeds(name).isEmpty, "\(name)")
        }
    }

    private static func run(_ image: SparseBytes, _ name: String) {
        let gauntlet = Gauntlet(formats: StandardFormats.all, format: name)
        let store = TestStore(["disk": image])
        gauntlet.look(store)
        _ = try? gauntlet.check(store)
        _ = try? gauntlet.check(store, repair: .all)
        gauntlet.look(store)
        store["disk"] = image
        gauntlet.change(store)
    }

    /// Metadata are at the ends of files; so damage is there more often than in the middle.
    private static func place(_ count: Int, _ random: inout SeededRandom) -> Int {
        let near = min(count, 4096)
        switch random.number(in: 0..<4) {
        case 0: return random.number(in: 0..<min(count, 512))
        case 1: return random.number(in: 0..<near)
        case 2: return count - 1 - random.number(in: 0..<near)
        default: return random.number(in: 0..<count)
        }
    }

    @Test(.timeLimit(.minutes(4)), arguments: formats) func truncated(_ name: String) throws {
        var random = SeededRandom(seed: TestEffort.seed)
        for seed in try Self.seeds(name) where seed.count > 0 {
            for _ in 0..<TestEffort.scaled(12) {
                var image = seed
                image.resize(to: Self.place(seed.count, &random))
                Self.run(image, name)
            }
        }
    }

    /// Damaged images as the base of a sound overlay.
    @Test(.timeLimit(.minutes(4)), arguments: formats) func damagedBases(_ name: String) throws {
        let target = try #require(FuzzTarget.named("chain-base"))
        var random = SeededRandom(seed: TestEffort.seed &+ 2)
        for seed in try Self.seeds(name) where 1..<4 << 20 ~= seed.count {
            target.run(seed.read(at: 0, count: seed.count))
            for _ in 0..<TestEffort.scaled(4) {
                var image = seed.read(at: 0, count: seed.count)
                image[Self.place(seed.count, &random)] = UInt8(random.number(in: 0..<256))
                target.run(image)
            }
        }
    }

    /// Chains in which tables and names are changed at random.
    @Test(.timeLimit(.minutes(4)), arguments: ["chain-qcow2-base", "chain-overlay", "chain-both"])
    func damagedChains(_ name: String) throws {
        let target = try #require(FuzzTarget.named(name))
        var random = SeededRandom(seed: TestEffort.seed &+ 3)
        for _ in 0..<TestEffort.scaled(60) {
            // Ten bytes a patch, half of them with small numbers, which may be offsets.
            let patches = (0..<1 + random.number(in: 0..<4)).map { _ -> [UInt8] in
                let isSmall = random.number(in: 0..<2) == 0
                let number = isSmall ? [0, 0, 0, 0, 0, 0] + random.bytes(2) : random.bytes(8)
                return random.bytes(2) + number
            }
            target.run(patches.flatMap { $0 })
        }
    }

    @Test(.timeLimit(.minutes(4)), arguments: ["chain-qcow2-base", "chain-overlay", "chain-both"])
    func damagedChainsOfOneField(_ name: String) throws {
        let target = try #require(FuzzTarget.named(name))
        for place in UInt8(0)..<64 { target.run([0, place, 0, 0, 0, 0, 0, 0, 2, 0]) }
    }

    @Test(.timeLimit(.minutes(4)), arguments: formats) func damaged(_ name: String) throws {
        var random = SeededRandom(seed: TestEffort.seed &+ 1)
        for seed in try Self.seeds(name) where seed.count > 0 {
            for _ in 0..<TestEffort.scaled(25) {
                var image = seed
                let values: [UInt8] = [0, 1, 0x7F, 0x80, 0xFF, UInt8(random.number(in: 0..<256))]
                image.write(
                    [values[random.number(in: 0..<values.count)]], at: Self.place(seed.count, &random))
                Self.run(image, name)
            }
        }
    }
}
