import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Parallels images that grow and shrink, and the space that they take.
@Suite struct ParallelsSizeTests {
    // MARK: Sizes

    /// A longer table takes the places of clusters.
    @Test(.timeLimit(.minutes(3)), arguments: [1, 1000, 3000], [0, 1])
    func growingMovesClusters(_ blocks: Int, _ kind: Int) throws {
        let files = [
            "disk": ParallelsImage.file(kind: kind == 0 ? .clusters : .sectors, [2, 0, 1, 3])
        ]
        try checkInterruption(
            of: files,
            action: { store in
                let node = try ParallelsImage.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: (4 + blocks) * 4096)
                try node.write([UInt8(9)].span.bytes, at: (3 + blocks) * 4096)
                try node.flush()
            },
            verify: { store in
                let bytes = try ParallelsImage.firstBytes(store)
                let isNew =
                    bytes.starts(with: [2, 0, 1, 3]) && bytes.count == 4 + blocks
                    && bytes.dropFirst(4).dropLast().allSatisfy { $0 == 0 } && [0, 9].contains(bytes.last)
                guard bytes == [2, 0, 1, 3] || isNew else {
                    throw Mismatch("\(bytes.prefix(10)) \(bytes.count)")
                }
                try ParallelsImage.open(store, readOnly: false).close()
                guard try ParallelsImage.isSound(store) else { throw Mismatch("damaged") }
            })
    }

    @Test(.timeLimit(.minutes(1))) func shrinkingGivesBack() throws {
        try checkInterruption(
            of: ["disk": ParallelsImage.file([2, 1, 4, 3])],
            action: { store in
                let node = try ParallelsImage.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: 4096 + 512)
            },
            verify: { store in
                let bytes = try ParallelsImage.firstBytes(store)
                guard bytes == [2, 1] || bytes == [2, 1, 4, 3] else { throw Mismatch("\(bytes)") }
                let node = try ParallelsImage.open(store, readOnly: false)
                try node.resize(to: 4096 + 512)
                try node.resize(to: 4 * 4096)
                let grown = try ParallelsImage.firstBytes(node)
                let tail = try node.readBytes(at: 4096 + 511, count: 2)
                try node.close()
                guard grown == [2, 1, 0, 0], tail == [1, 0] else { throw Mismatch("grown: \(grown) \(tail)") }
                guard try ParallelsImage.isSound(store) else { throw Mismatch("damaged") }
                guard store["disk"]?.count == 3 * 4096 else { throw Mismatch("the file is not cut") }
            })
    }

    /// What a surplus entry refers to was never the guest's.
    @Test func surplusEntriesDoNotShowUp() throws {
        let store = TestStore(["disk": ParallelsImage.file(size: 4096, [1, 2, 3])])
        let node = try ParallelsImage.open(store, readOnly: false)
        try node.resize(to: 3 * 4096)
        #expect(try ParallelsImage.firstBytes(node) == [1, 0, 0])
        try node.close()
        #expect(try ParallelsImage.isSound(store))
    }

    @Test func sizesThatTheKindCannotHaveAreRefused() throws {
        let store = TestStore(["disk": ParallelsImage.file(kind: .sectors, [1])])
        let node = try ParallelsImage.open(store, readOnly: false)
        for size in [100, 1 << 42, 1 << 62] { #expect(throws: BlockError.self) { try node.resize(to: size) } }
        try node.close()
        #expect(try ParallelsImage.firstBytes(store) == [1])
    }

    // MARK: Space

    @Test func freedClustersAreTakenAgainAndTheFileIsCut() throws {
        let store = TestStore(["disk": ParallelsImage.file([1, 2, 3, 4])])
        let node = try ParallelsImage.open(store, readOnly: false)
        try node.discard(at: 0, count: 4096)
        try node.writeZeroes(at: 2 * 4096, count: 2 * 4096)
        try node.flush()
        try node.write([UInt8](repeating: 8, count: 4096).span.bytes, at: 3 * 4096)
        #expect(try ParallelsImage.firstBytes(node) == [0, 2, 0, 8])
        try node.close()
        #expect(store["disk"]?.count == 3 * 4096)
        #expect(try ParallelsImage.firstBytes(store) == [0, 2, 0, 8])
        #expect(try ParallelsImage.isSound(store))
    }

    @Test(arguments: ["falloc", "truncate", nil]) func growthIsPreallocatedAndCut(_ mode: String?) throws {
        let store = TestStore(["disk": ParallelsImage.file([1, 0])])
        var options = ["prealloc-size": "1M"]
        options["prealloc-mode"] = mode
        let node = try ParallelsImage.open(store, readOnly: false, options)
        try node.write([UInt8(9)].span.bytes, at: 4096)
        #expect(store["disk"]?.count == 3 * 4096 + 1 << 20)
        try node.close()
        #expect(store["disk"]?.count == 3 * 4096)
        #expect(throws: BlockError.self) { try ParallelsImage.open(store, ["prealloc-mode": "full"]) }
    }
}
