import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `blkverify`: two disks that must stay the same.
@Suite struct VerifyDriverTests {
    private let images = FilterImages()
    private static let size = 64 << 10
    private let options = "driver=blkverify,raw.filename=raw,test.driver=qcow2,test.file.filename=image"

    init() throws {
        images.store["raw"] = SparseBytes(count: Self.size)
        try images.create("image", size: Self.size)
    }

    private func guest() throws -> [UInt8] {
        let image = try images.open("driver=qcow2,file.filename=image", readOnly: true)
        defer { try? image.close() }
        return try image.readBytes(at: 0, count: Self.size)
    }

    @Test func changesReachBoth() throws {
        let node = try images.open(options)
        try node.put([1, 2, 3], at: 5000)
        try node.writeZeroes(at: 5001, count: 1)
        try node.discard(at: 4096, count: 4096)
        #expect(try node.readBytes(at: 5000, count: 3) == [1, 0, 3])
        try node.resize(to: Self.size * 2)
        #expect(try node.length() == Self.size * 2)
        try node.resize(to: Self.size)
        try node.close()
        #expect(try guest() == images.bytes("raw"))
        #expect(images.bytes("raw")[5000..<5003] == [1, 0, 3])
    }

    @Test func theFirstDifferenceIsTold() throws {
        var raw = images.bytes("raw")
        raw[9001] = 1
        raw[9005] = 1
        images.raw("raw", raw)
        let node = try images.open(options)
        #expect(try node.readBytes(at: 0, count: 9001) == [0] * 9001)
        #expect(try node.readBytes(at: 9002, count: 3) == [0] * 3)
        let error = failure { _ = try node.readBytes(at: 8192, count: 4096) }
        #expect(error?.kind == .io)
        #expect(error?.message == "blkverify: read offset=8192 bytes=4096 contents mismatch at offset 9001")
        try node.close()
    }

    /// The byte is found wherever it is in a block, and nothing else is.
    @Test func everyOffsetIsCompared() throws {
        let node = try images.open(options)
        var random = SeededRandom(seed: 5)
        for _ in 0..<50 {
            let offset = random.number(in: 0..<Self.size)
            var raw = [UInt8](repeating: 0, count: Self.size)
            raw[offset] = UInt8(random.number(in: 1..<256))
            images.raw("raw", raw)
            let message = failure { _ = try node.readBytes(at: 0, count: Self.size) }?.message
            #expect(message?.hasSuffix("mismatch at offset \(offset)") == true, "\(message ?? "none")")
        }
        images.store["raw"] = SparseBytes(count: Self.size)
        try node.close()
    }

    @Test func aFailureOfOneIsADifference() throws {
        let node = try images.open(options)
        images.store.faults.arm(1, .ioErrorOnce)
        let error = failure { try node.put([1], at: 0) }
        images.store.faults.disarm()
        #expect(error?.message == "blkverify: write offset=0 bytes=1 return value mismatch -5 != 0")
        // Of both it is the failure.
        images.store.faults.arm(1, .deadFromThen)
        #expect(failure { try node.put([1], at: 0) }?.message.contains("mismatch") == false)
        images.store.faults.disarm()
        try node.close()
    }

    @Test func namesOpenBoth() throws {
        let node = try images.opener.open(
            "blkverify:raw:image", format: "raw", settings: OpenSettings(readOnly: false))
        let filter = try #require(node.file)
        #expect(filter.driverName == "blkverify" && filter.children.map(\.driverName) == ["file", "qcow2"])
        #expect(filter.naming.plain == "blkverify:raw:image" && node.filename == "blkverify:raw:image")
        try node.put([5], at: 700)
        try node.close()
        #expect(images.bytes("raw")[700] == 5)
        #expect(
            failure { _ = try images.opener.open("blkverify:raw") }?.message
                == "blkverify requires raw copy and original image path")
        let keys = try images.open("driver=blkverify,x-raw=raw,x-image=image")
        #expect(keys.childRoles == ["raw", "test"] && keys.naming.plain == "blkverify:raw:image")
        try keys.close()
    }

    @Test func optionsThatNoNameStatesAreShown() throws {
        let node = try images.open(
            "driver=blkverify,raw.driver=raw,raw.offset=0,raw.file.filename=raw,test.driver=qcow2,"
                + "test.file.filename=image", readOnly: true)
        #expect(node.naming.plain == nil)
        guard case .object(let fields) = node.naming.options else { throw Missing() }
        #expect(fields.map(\.key) == ["test", "driver", "raw"])
        try node.close()
    }

    private struct Missing: Error {}
}
