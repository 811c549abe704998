import BlockCore
import Synchronization

extension ConformanceSuite {
    private static let writers = 6
    /// What each write stores, in bytes: less than most units, so that threads share these.
    private static let pieceBytes = 4096

    /// Small writes of many threads into a new image, which share units, tables and the end of the file, and
    /// a reader beside them: each piece is as it was or as it was written, never something between.
    func checkFreshImage(seed: UInt64) throws {
        let session = try ImageSession.new(configuration)
        let pieces = FreshPieces(
            before: session.model, pieceBytes: Self.pieceBytes, most: TestEffort.scaled(160))
        guard pieces.offsets.count >= Self.writers else { return try session.finish() }
        let node = session.node
        let working = Atomic<Int>(Self.writers)
        try WorkerThreads.run(Self.writers + 1) { thread throws(BlockError) in
            var random = SeededRandom(seed: seed &+ 177 &+ UInt64(thread))
            guard thread > 0 else { return try pieces.watch(node, while: working, &random) }
            defer { working.subtract(1, ordering: .sequentiallyConsistent) }
            var mine = pieces.offsets.indices.filter { $0 % Self.writers == thread - 1 }
            while !mine.isEmpty {
                let index = mine.remove(at: random.number(in: 0..<mine.count))
                try node.write(pieces.written(index).span.bytes, at: pieces.offsets[index])
            }
        }
        for index in pieces.offsets.indices {
            session.model.adopt(pieces.written(index), at: pieces.offsets[index])
        }
        try session.compareAll()
        try session.finish()
    }
}

/// The places of a disk that are written once each, spread over all of it.
private struct FreshPieces: Sendable {
    let before: ReferenceDisk
    let pieceBytes: Int
    let offsets: [Int]

    init(before: ReferenceDisk, pieceBytes: Int, most: Int) {
        self.before = before
        self.pieceBytes = pieceBytes
        let all = before.size / pieceBytes
        let count = min(all, most)
        offsets = (0..<count).map { $0 * all / count * pieceBytes }
    }

    func written(_ index: Int) -> [UInt8] {
        Pattern.bytes(stamp: 3000 + index, at: offsets[index], count: pieceBytes)
    }

    /// Reads places at random as long as anybody writes.
    func watch(
        _ node: BlockNode, while working: borrowing Atomic<Int>, _ random: inout SeededRandom
    ) throws(BlockError) {
        repeat {
            let index = random.number(in: 0..<offsets.count)
            let found = try node.readBytes(at: offsets[index], count: pieceBytes)
            let old = before.read(offsets[index]..<offsets[index] + pieceBytes)
            guard found == old || found == written(index) else {
                throw BlockError(
                    .corrupt, "a reader saw neither the old nor the new bytes", offset: offsets[index])
            }
        } while working.load(ordering: .sequentiallyConsistent) > 0
    }
}
