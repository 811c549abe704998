import BlockCore
import BlockTestSupport
import Foundation
import Testing

/// What the fuzzer found once, and inputs that reach far: replayed.
@Suite struct FuzzSeedTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Fixtures/fuzz")

    @Test(.timeLimit(.minutes(2)), arguments: FuzzTarget.all.map(\.name).filter { $0 != "canary" })
    func keptSeeds(_ name: String) throws {
        let target = try #require(FuzzTarget.named(name))
        target.run([])
        let seeds = try? FileManager.default.contentsOfDirectory(
            at: Self.folder.appending(path: name), includingPropertiesForKeys: nil)
        for seed in seeds ?? [] { target.run([UInt8](try Data(contentsOf: seed))) }
    }

    /// The kept texts lead to an image, or the parsers would be all that is reached.
    @Test(arguments: ["options", "json", "blkdebug-rules", "blkdebug-options", "throttle-options"])
    func keptTextsOpen(_ name: String) throws {
        let target = try #require(FuzzTarget.named(name))
        let folder = Self.folder.appending(path: name)
        let seeds = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        #expect(!seeds.isEmpty)
        for seed in seeds {
            #expect(target.opens([UInt8](try Data(contentsOf: seed))) == true, "\(seed.lastPathComponent)")
        }
        #expect(target.opens(Array("driver=nothing,=".utf8)) == false)
    }

    /// Folders are named as targets, or their seeds would be replayed by none.
    @Test func foldersAreTargets() throws {
        for folder in try FileManager.default.contentsOfDirectory(atPath: Self.folder.path) {
            #expect(FuzzTarget.named(folder) != nil, "\(folder)")
        }
    }
}

/// The images that targets change are sound to begin with, or what is under test would not be reached.
@Suite struct FuzzImageTests {
    /// How many images the chains are to begin with; the others stand alone.
    private static let layers = [
        "chain-base": 2, "chain-qcow2-base": 2, "chain-overlay": 2, "chain-both": 3, "chain-names": 3,
    ]

    @Test(
        arguments: ["qcow2-luks", "luks-header", "qcow2-bitmap-tables"]
            + ["chain-base", "chain-qcow2-base", "chain-overlay", "chain-both", "chain-names"])
    func isSound(_ name: String) throws {
        let (store, gauntlet) = try #require(FuzzTarget.named(name)).begin([])
        let result = try gauntlet.check(store)
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0)
        try gauntlet.with(store) { node throws(BlockError) in
            try gauntlet.readAll(node)
            let bitmaps = (try? node.bitmapKeeper().bitmaps()) ?? []
            let defects = name == "qcow2-bitmap-tables" ? [false, false, true] : []
            #expect(bitmaps.map(\.isInconsistent) == defects)
            #expect(node.chain.count == Self.layers[name, default: 1])
        }
    }
}
