import BlockCore
import BlockJobs
import BlockTestSupport
import Synchronization
import Testing

@Suite struct CompareJobTests {
    private static let mebibyte = 1 << 20

    private func node(
        _ bytes: [UInt8], size: Int? = nil, data: [Range<Int>]? = nil
    ) -> (node: BlockNode, driver: ProbeDriver) {
        let driver = ProbeDriver(
            size: size ?? bytes.count, data: data ?? [0..<bytes.count], bytes: bytes)
        return (BlockNode(.storage(driver), filename: "probe"), driver)
    }

    private func compare(
        _ first: BlockNode, _ second: BlockNode, isStrict: Bool = false
    ) throws -> ComparisonOutcome? {
        let job = CompareJob(first, second, isStrict: isStrict)
        try job.run(JobControl())
        return job.outcome
    }

    @Test("the difference at the lowest offset is found, wherever it is", arguments: 0..<60)
    func firstDifference(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let size = random.number(in: 1..<(5 * Self.mebibyte))
        let bytes = random.bytes(size)
        var other = bytes
        var places: [Int] = []
        for _ in 0..<random.number(in: 1..<4) {
            let place = random.number(in: 0..<size)
            other[place] = bytes[place] ^ 0xFF
            places.append(place)
        }
        let expected = places.filter { other[$0] != bytes[$0] }.min().map { $0 / 512 * 512 }
        let outcome = try compare(node(bytes).node, node(other).node)
        #expect(outcome == expected.map { .contentDiffers(at: $0, sizesDiffer: false) })
    }

    @Test("equal disks are identical, also where one stores zeroes and the other has a hole")
    func identical() throws {
        var random = SeededRandom(seed: 3)
        let bytes =
            random.bytes(Self.mebibyte) + [UInt8](repeating: 0, count: 3 * Self.mebibyte) + random.bytes(777)
        let holes = [0..<Self.mebibyte, (4 * Self.mebibyte)..<bytes.count]
        #expect(
            try compare(node(bytes).node, node(bytes, data: holes).node) == .identical(sizesDiffer: false))
    }

    @Test("what both maps call zero is not read")
    func skipsHoles() throws {
        let size = 1 << 40
        let data = [0..<65_536, (1 << 39)..<((1 << 39) + 65_536)]
        let (one, two) = (node([], size: size, data: data), node([], size: size, data: data))
        #expect(try compare(one.node, two.node) == .identical(sizesDiffer: false))
        for driver in [one.driver, two.driver] {
            #expect(driver.state.withLock { $0.readBytes } == 2 * 65_536)
        }
    }

    @Test("the longer disk's rest must read as zeroes", arguments: [false, true])
    func rest(isSwapped: Bool) throws {
        let short = [UInt8](repeating: 1, count: 100_000)
        var long = short + [UInt8](repeating: 0, count: 200_000)
        func outcome() throws -> ComparisonOutcome? {
            let (one, two) = (node(short).node, node(long).node)
            return isSwapped ? try compare(two, one) : try compare(one, two)
        }
        #expect(try outcome() == .identical(sizesDiffer: true))
        long[250_000] = 1
        #expect(try outcome() == .contentDiffers(at: 249_856, sizesDiffer: true))
    }

    @Test("strict: sizes and maps must agree")
    func strict() throws {
        let bytes = [UInt8](repeating: 0, count: 300_000)
        let full = node(bytes).node
        #expect(try compare(full, node(bytes).node, isStrict: true) == .identical(sizesDiffer: false))
        let holed = node(bytes, data: [0..<131_072]).node
        #expect(try compare(full, holed, isStrict: true) == .statusDiffers(at: 131_072))
        #expect(try compare(full, node([0]).node, isStrict: true) == .sizeDiffers)
        // Contents that differ earlier go first.
        var changed = bytes
        changed[5000] = 1
        let early = node(changed, data: [0..<131_072]).node
        #expect(
            try compare(full, early, isStrict: true) == .contentDiffers(at: 4608, sizesDiffer: false))
    }

    @Test("a read error names the disk's offset and ends the job")
    func readError() throws {
        let bytes = [UInt8](repeating: 1, count: 3 * Self.mebibyte)
        let (good, bad) = (node(bytes), node(bytes))
        bad.driver.state.withLock { $0.unreadable = [(2 * Self.mebibyte)..<(2 * Self.mebibyte + 1)] }
        let job = CompareJob(good.node, bad.node)
        #expect(throws: BlockError.self) { try job.run(JobControl()) }
        let details = try #require(job.failureDetails)
        #expect(details.activity == .reading)
        #expect(details.error.offset == 2 * Self.mebibyte)
        #expect(job.outcome == nil)
    }

    @Test("cancelling ends the job with kind cancelled")
    func cancel() throws {
        let bytes = [UInt8](repeating: 1, count: Self.mebibyte)
        let control = JobControl()
        control.cancel()
        #expect { try CompareJob(node(bytes).node, node(bytes).node).run(control) } throws: { error in
            (error as? BlockError)?.kind == .cancelled
        }
    }

    @Test("progress ends at the larger size")
    func progress() throws {
        let control = JobControl()
        try CompareJob(node([], size: 5 << 30, data: []).node, node([], size: 1 << 30, data: []).node)
            .run(control)
        #expect(control.progress.done == 5 << 30)
        #expect(control.progress.total == 5 << 30)
    }
}
