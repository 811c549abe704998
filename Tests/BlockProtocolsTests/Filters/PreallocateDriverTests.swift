import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `preallocate`: a file grows in large steps, and ends where its bytes end.
@Suite struct PreallocateDriverTests {
    private let images = FilterImages()
    private let options = "driver=preallocate,file.filename=disk,prealloc-size=64k,prealloc-align=16k"

    init() { images.raw("disk", [1] * 1000) }

    private var length: Int { images.store["disk"]?.count ?? -1 }

    @Test func theFileGrowsInSteps() throws {
        let node = try images.open(options)
        try node.put([2], at: 999)
        #expect(length == 1000)
        try node.put([3], at: 1000)
        #expect(length == 80 << 10)
        #expect(try node.length() == 1001)
        images.store.clearLog()
        for offset in 1001..<1050 { try node.put([3], at: offset) }
        try node.writeZeroes(at: 1050, count: 1000, flags: [])
        #expect(!images.store.log.contains { if case .truncate = $0 { true } else { false } })
        #expect(try node.length() == 2050 && length == 80 << 10)
        #expect(try node.readBytes(at: 999, count: 3) == [2, 3, 3])
        try node.put([4], at: 80 << 10)
        #expect(length == 160 << 10)
        try node.close()
        #expect(length == (80 << 10) + 1)
        #expect(images.bytes("disk").suffix(2) == [0, 4])
    }

    @Test func readOnlyHoldsNothingBack() throws {
        let node = try images.open(options)
        try node.put([3], at: 5000)
        try node.reopen(readOnly: true)
        #expect(length == 5001)
        #expect(try node.length() == 5001)
        try node.reopen(readOnly: false)
        #expect(length == 5001)
        try node.put([3], at: 6000)
        #expect(length > 6001)
        try node.close()
        #expect(length == 6001)
    }

    @Test func resizingCountsFromTheData() throws {
        let node = try images.open(options)
        try node.put([3], at: 5000)
        try node.resize(to: 7000)
        #expect(try node.length() == 7000 && length == 7000)
        try node.resize(to: 500)
        #expect(try node.length() == 500 && length == 500)
        try node.put([3], at: 600)
        #expect(try node.length() == 601 && length == 80 << 10)
        #expect(try node.readBytes(at: 499, count: 102) == [1] + [0] * 100 + [3])
        try node.close()
        #expect(length == 601)
    }

    /// A disk without room for the reserve still takes the bytes.
    @Test func aFullDiskTakesWhatFits() throws {
        let node = try images.open(options)
        images.store.faults.arm(1, .ioErrorOnce)
        try node.put([3], at: 1000)
        images.store.faults.disarm()
        #expect(length == 1001)
        try node.put([3], at: 2000)
        #expect(length == 2001)
        try node.close()
        #expect(length == 2001)
    }

    @Test func threadsThatGrowTheFileLoseNothing() throws {
        let node = try images.open(options.replacing("64k", with: "4k").replacing("16k", with: "512"))
        try WorkerThreads.run(4) { thread throws(BlockError) in
            for index in 0..<100 {
                let offset = 1000 + (index * 4 + thread) * 300
                try node.write([UInt8](repeating: UInt8(thread + 1), count: 300).span.bytes, at: offset)
            }
        }
        try node.close()
        #expect(length == 1000 + 400 * 300)
        for index in 0..<400 {
            let offset = 1000 + index * 300
            #expect(images.bytes("disk")[offset..<offset + 300].allSatisfy { $0 == UInt8(index % 4 + 1) })
        }
    }

    @Test func anImageInItIsTheSame() throws {
        try images.create("image", size: 1 << 20)
        let node = try images.open(
            "driver=qcow2,file.driver=preallocate,file.file.filename=image,file.prealloc-size=1M")
        try node.put([5] * 100_000, at: 300_000)
        #expect(images.store["image"]?.count ?? 0 > 1 << 20)
        try node.close()
        let end = images.store["image"]?.count ?? 0
        #expect(end < 200_000)
        let again = try images.open("driver=qcow2,file.filename=image")
        #expect(try again.readBytes(at: 299_999, count: 3) == [0, 5, 5])
        try again.close()
    }

    @Test func optionsAreChecked() throws {
        #expect(
            images.refusal("driver=preallocate,file.filename=disk,prealloc-align=1000")
                == "prealloc-align parameter of preallocate filter is not aligned to 512")
        for fine in ["prealloc-align=0", "prealloc-size=0", "prealloc-size=1000"] {
            #expect(images.refusal("driver=preallocate,file.filename=disk,\(fine)") == nil)
        }
        #expect(length == 1000 && images.store.openDisks == 0)
    }
}
