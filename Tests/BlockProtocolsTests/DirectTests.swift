import BlockCore
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

/// Requests of any size and place against a byte array, through every cache mode.
@Suite struct CacheModeTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    /// Past the page cache only whole blocks can be transferred; nobody may notice.
    @Test(arguments: CacheMode.allCases, [UInt64(1), 2, 3])
    func randomRequestsAgreeWithAByteArray(cache: CacheMode, seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var model = random.bytes(20001)
        let path = try scratch.file("a", model)
        let driver = try FileDriver(opening: path, settings: writing(cache))
        #expect((driver.requestAlignment > 1) == cache.isDirect)
        for step in 0..<150 {
            try randomStep(driver, &model, &random)
            #expect(try driver.length() == model.count, "step \(step)")
        }
        try driver.flush()
        driver.close()
        #expect(try scratch.contents("a") == model)
    }

    static let engines: [(RequestEngine, CacheMode)] = [
        (.native, .none), (.native, .directsync), (.uring, .writeback), (.uring, .none),
    ]

    /// The kernel's queues carry the same requests.
    @Test(arguments: engines) func randomRequestsThroughAQueue(_ engine: (RequestEngine, CacheMode)) throws {
        var settings = writing(engine.1)
        settings.engine = engine.0
        var random = SeededRandom(seed: TestEffort.seed)
        var model = random.bytes(20001)
        let path = try scratch.file("a", model)
        let driver: FileDriver
        do throws(BlockError) { driver = try FileDriver(opening: path, settings: settings) } catch {
            // Containers may forbid io_uring; Linux AIO is everywhere.
            guard engine.0 == .uring, error.kind == .unsupported else { throw error }
            return
        }
        for _ in 0..<150 { try randomStep(driver, &model, &random) }
        try WorkerThreads.run(8) { (worker) throws(BlockError) in
            for round in 0..<50 {
                let offset = (worker * 50 + round) * 4096
                try driver.write([UInt8](repeating: UInt8(worker), count: 4096).span.bytes, at: offset)
            }
        }
        store(pieces(8, of: 50 * 4096) { UInt8($0) }, at: 0, in: &model)
        try driver.flush()
        driver.close()
        #expect(try scratch.contents("a") == model)
    }

    @Test func nativeRequestsNeedDirectOnes() throws {
        var settings = writing(.writeback)
        settings.engine = .native
        let path = try scratch.file("a", [1])
        var options = OptionTree()
        let message = failure { _ = try FileDriver.entry.open(path, &options, settings) }?.message
        #expect(message?.contains("requires cache.direct=on") == true, "\(message ?? "nothing")")
    }

    private func randomStep(
        _ driver: FileDriver, _ model: inout [UInt8], _ random: inout SeededRandom
    ) throws {
        let alignment = driver.requestAlignment
        let aligned = random.number(in: 0..<4) == 0
        var offset = random.number(in: 0..<40000)
        var count = random.number(in: 1..<12000)
        if aligned {
            offset -= offset % alignment
            count = max(alignment, count - count % alignment)
        }
        switch random.number(in: 0..<6) {
        case 0, 1:
            let bytes = random.bytes(count)
            try driver.put(bytes, at: offset)
            store(bytes, at: offset, in: &model)
        case 2:
            let flags: ZeroFlags = random.number(in: 0..<2) == 0 ? .mayUnmap : []
            try driver.writeZeroes(at: offset, count: count, flags: flags)
            store([UInt8](repeating: 0, count: count), at: offset, in: &model)
        case 3:
            let length = random.number(in: 10000..<40000)
            try driver.truncate(to: length, preallocation: .off)
            model = Array(model.prefix(length)) + [UInt8](repeating: 0, count: max(0, length - model.count))
        default:
            let expected = (offset..<offset + count).map { $0 < model.count ? model[$0] : 0 }
            #expect(try driver.bytes(at: offset, count) == expected)
        }
    }

    private func store(_ bytes: [UInt8], at offset: Int, in model: inout [UInt8]) {
        let end = offset + bytes.count
        if model.count < end { model += [UInt8](repeating: 0, count: end - model.count) }
        model.replaceSubrange(offset..<end, with: bytes)
    }

    /// Neighbours inside one block: each write completes the block from the file, and must not undo others.
    @Test(arguments: [CacheMode.none, .writeback]) func unalignedNeighboursDoNotLoseEachOther(
        cache: CacheMode
    ) throws {
        let path = try scratch.file("a", [UInt8](repeating: 0xFF, count: 4096))
        let driver = try FileDriver(opening: path, settings: writing(cache))
        try WorkerThreads.run(8) { (worker) throws(BlockError) in
            for index in stride(from: worker, to: 1200, by: 8) {
                if index % 3 == 0 {
                    try driver.writeZeroes(at: index * 10, count: 10, flags: .mayUnmap)
                } else {
                    try driver.write(
                        [UInt8](repeating: UInt8(index & 0x7F), count: 10).span.bytes, at: index * 10)
                }
            }
        }
        let expected = pieces(1200, of: 10) { $0 % 3 == 0 ? 0 : UInt8($0 & 0x7F) }
        driver.close()
        #expect(try scratch.contents("a") == expected)
    }

    /// Whoever makes the file longer must not cut off what another has just put behind.
    @Test(arguments: [CacheMode.none, .writeback]) func growingFromManyThreadsLosesNothing(cache: CacheMode)
        throws
    {
        let piece = 500
        let path = try scratch.file("a", [UInt8](repeating: 1, count: 2000 * piece))
        let driver = try FileDriver(opening: path, settings: writing(cache))
        // A driver that still believed in the old length would not take turns.
        try driver.truncate(to: 0, preallocation: .off)
        try WorkerThreads.run(6) { (worker) throws(BlockError) in
            for index in stride(from: worker, to: 2000, by: 6) {
                if index % 4 == 1 {
                    try driver.writeZeroes(
                        at: index * piece, count: piece, flags: index % 8 == 1 ? .mayUnmap : [])
                } else {
                    let bytes = [UInt8](repeating: UInt8(index & 0x7F), count: piece)
                    try driver.write(bytes.span.bytes, at: index * piece)
                }
            }
        }
        let expected = pieces(2000, of: piece) { $0 % 4 == 1 ? 0 : UInt8($0 & 0x7F) }
        driver.close()
        #expect(try scratch.contents("a") == expected)
    }

    private func pieces(_ count: Int, of size: Int, _ value: (Int) -> UInt8) -> [UInt8] {
        (0..<count).flatMap { [UInt8](repeating: value($0), count: size) }
    }

    @Test func readersSeeWholeOldOrNewBlocksWhileNeighboursAreWritten() throws {
        let path = try scratch.file("a", [UInt8](repeating: 3, count: 1 << 20))
        let driver = try FileDriver(opening: path, settings: writing(.none))
        try WorkerThreads.run(4) { (worker) throws(BlockError) in
            for round in 0..<40 {
                if worker == 0 {
                    try driver.write([UInt8](repeating: 4, count: 100).span.bytes, at: 4096 * round + 50)
                    continue
                }
                var bytes = [UInt8](repeating: 0, count: 300)
                var elements = bytes.mutableSpan
                var span = elements.mutableBytes
                try driver.read(into: &span, at: 4096 * round + 150)
                #expect(bytes == [UInt8](repeating: 3, count: 300))
            }
        }
    }

    @Test func directRequestsLargerThanTheBounceBufferArriveWhole() throws {
        var random = SeededRandom(seed: 9)
        let bytes = random.bytes(3 << 20)
        let path = try scratch.file("a")
        let driver = try FileDriver(opening: path, settings: writing(.directsync))
        try driver.put(bytes, at: 777)
        #expect(try driver.bytes(at: 777, bytes.count) == bytes)
        try driver.put(bytes, at: 4 << 20)
        driver.close()
        let contents = try scratch.contents("a")
        #expect(contents.count == 7 << 20)
        #expect(Array(contents[777..<777 + bytes.count]) == bytes)
        #expect(Array(contents[(4 << 20)...]) == bytes)
    }

    @Test func theOpenOptionGoesPastThePageCacheToo() throws {
        let path = try scratch.file("a", [1, 2, 3])
        var options = try OptionTree.parse("cache.direct=on")
        let driver = try FileDriver.entry.open(path, &options, writing())
        #expect(driver.requestAlignment >= 512)
        #expect(try driver.bytes(at: 1, 5) == [2, 3, 0, 0, 0])
        let buffer = AlignedBuffer(count: 4096)
        var span = buffer.mutableBytes
        try driver.read(into: &span, at: 0)
        #expect(buffer.bytes.array == [1, 2, 3] + [UInt8](repeating: 0, count: 4093))
    }
}
