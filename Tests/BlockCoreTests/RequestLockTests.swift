import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// Requests of real threads on the same and on different ranges.
@Suite struct RequestLockTests {
    @Test(.timeLimit(.minutes(1)))
    func overlappingRequestsExcludeEachOther() throws {
        let driver = ProbeDriver(granularity: 4096)
        let node = BlockNode(
            .format(driver), filename: "probe", settings: OpenSettings(readOnly: false))
        try WorkerThreads.run(6) { thread throws(BlockError) in
            var random = SeededRandom(seed: UInt64(thread))
            let bytes = [UInt8](repeating: 1, count: 700)
            for _ in 0..<200 {
                let offset = random.number(in: 0..<60_000)
                try node.write(bytes.span.bytes, at: offset)
            }
        }
        #expect(driver.overlaps.load(ordering: .relaxed) == 0)
        #expect(driver.writes.load(ordering: .relaxed) == 1200)
    }

    /// Two writers in different clusters must be inside the driver at the same time: each waits for the
    /// other.
    @Test(.timeLimit(.minutes(1)))
    func disjointRequestsRunAtOnce() throws {
        let driver = ProbeDriver(granularity: 4096, meetingOf: 2)
        let node = BlockNode(
            .format(driver), filename: "probe", settings: OpenSettings(readOnly: false))
        try WorkerThreads.run(2) { thread throws(BlockError) in
            let bytes = [UInt8](repeating: 1, count: 512)
            try node.write(bytes.span.bytes, at: thread * 4096)
        }
        #expect(driver.writes.load(ordering: .relaxed) == 2)
    }
}

/// A format that stores nothing and watches who is inside a write.
private final class ProbeDriver: FormatDriver {
    static let name = "probe"
    let overlaps = Atomic<Int>(0)
    let writes = Atomic<Int>(0)
    let writeGranularity: Int
    private let meetingOf: Int
    private let inside = Monitor<[Range<Int>]>([])
    private let nowhere = nullNode()

    init(granularity: Int, meetingOf: Int = 0) {
        writeGranularity = granularity
        self.meetingOf = meetingOf
    }

    static func probe(_ header: RawSpan, filename: String) -> Int { 0 }
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> ProbeDriver {
        ProbeDriver(granularity: 1)
    }

    var virtualSize: Int { 1 << 20 }
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.unallocated, length: limit)
    }
    func flush() throws(BlockError) {}
    func close() throws(BlockError) {}
    func describe() throws(BlockError) -> FormatInfo { FormatInfo() }

    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        var grant = WriteGrant(inPlace: guest, at: 0, in: nowhere)
        grant.form = .encrypted
        return grant
    }

    func storeEncoded(_ bytes: RawSpan, for grant: WriteGrant, at offset: Int) throws(BlockError) {
        let end = (offset + bytes.byteCount).roundedUp(to: writeGranularity) ?? .max
        let range = offset.roundedDown(to: writeGranularity)..<end
        inside.withLock { active in
            if active.contains(where: { $0.overlaps(range) }) { overlaps.add(1, ordering: .relaxed) }
            active.append(range)
        }
        inside.notifyAll()
        if meetingOf > 0 { inside.wait(until: { $0.count >= meetingOf }, then: { _ in }) }
        // Time for another one that is let in by mistake.
        _ = inside.wait(forNanoseconds: 2000) { active in active.count { $0.overlaps(range) } > 1 }
        writes.add(1, ordering: .relaxed)
        if meetingOf == 0 {
            inside.withLock { active in
                if let index = active.firstIndex(of: range) { active.remove(at: index) }
            }
        }
    }
}
