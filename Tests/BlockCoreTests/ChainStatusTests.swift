import BlockCore
import BlockTestSupport
import Testing

@Suite struct ChainStatusTests {
    private let images = TestImages()

    /// base (raw, 6000 bytes) <- middle (data in cluster 2) <- top (zero in cluster 3), 24 KiB.
    private func chain() throws -> BlockNode {
        images.createRaw("base", size: 6000)
        try images.create("middle", size: 24_576, backing: "base")
        let middle = try images.open("middle")
        try middle.write(Pattern.bytes(stamp: 2, at: 8192, count: 4096).span.bytes, at: 8192)
        try middle.close()
        try images.create("top", size: 24_576, backing: "middle")
        let top = try images.open("top")
        try top.writeZeroes(at: 12_288, count: 4096)
        return top
    }

    @Test func eachRunTellsWhereItIs() throws {
        let top = try chain()
        var runs: [ChainStatus] = []
        var offset = 0
        while offset < 24_576 {
            let run = try top.status(at: offset, limit: 24_576 - offset)
            #expect(run.length > 0)
            runs.append(run)
            offset += run.length
        }
        #expect(offset == 24_576)
        let base = runs.filter { $0.file == "base" }
        #expect(base.reduce(0) { $0 + $1.length } >= 6000)
        #expect(base.allSatisfy { $0.depth == 2 && $0.isPresent })
        let data = try top.status(at: 8192, limit: 10)
        #expect(data.isData && data.depth == 1 && data.file == "middle" && data.length == 10)
        let zero = try top.status(at: 12_288, limit: 100_000)
        #expect(zero.isZero && !zero.isData && zero.depth == 0 && zero.length == 4096)
        let beyond = try top.status(at: 20_000, limit: 100)
        #expect(beyond.isZero && beyond.isPresent && !beyond.isData)
        try top.close()
    }

    @Test func aboveStopsBeforeTheBase() throws {
        let top = try chain()
        let chain = top.chain
        #expect(chain.map(\.filename) == ["top", "middle", "base"])
        #expect(try top.status(at: 0, limit: 100, above: chain[2]).isPresent == false)
        #expect(try top.status(at: 8192, limit: 100, above: chain[2]).isPresent)
        #expect(try top.status(at: 8192, limit: 100, above: chain[1]).isPresent == false)
        #expect(try top.status(at: 12_288, limit: 100, above: chain[1]).isPresent)
        try top.close()
    }

    @Test func nothingIsAboveTheNodeItself() throws {
        let top = try chain()
        #expect(try top.status(at: 12_288, limit: 100, above: top).isPresent == false)
        try top.close()
    }

    @Test func statusAgreesWithReading() throws {
        let top = try chain()
        for offset in stride(from: 0, to: 24_576, by: 1000) {
            let run = try top.status(at: offset, limit: 24_576 - offset)
            let bytes = try top.readBytes(at: offset, count: run.length)
            if run.isZero { #expect(bytes.allSatisfy { $0 == 0 }) }
            if let host = run.hostOffset, let file = run.file, run.isData {
                #expect(images.store[file]?.read(at: host, count: run.length) == bytes)
            }
        }
        try top.close()
    }

    @Test func anEmptyExtentIsCorruption() {
        let node = BlockNode(.format(EmptyExtents()), filename: "bad")
        #expect(blockError { () throws(BlockError) in try node.status(at: 0, limit: 10) }?.kind == .corrupt)
    }
}

/// A driver that maps nothing anywhere.
private final class EmptyExtents: FormatDriver {
    static let name = "empty"
    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> EmptyExtents {
        EmptyExtents()
    }
    var virtualSize: Int { 4096 }
    var writeGranularity: Int { 1 }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent { Extent(.unallocated, length: 0) }
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "read-only")
    }
    func flush() throws(BlockError) {}
    func close() throws(BlockError) {}
    func describe() throws(BlockError) -> FormatInfo { FormatInfo() }
}
