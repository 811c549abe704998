import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `copy-on-read`: what is read from below is in the image afterwards.
@Suite struct CopyOnReadTests {
    private let images = FilterImages()
    private static let size = 64 << 10
    private static let base = Pattern.bytes(stamp: 3, at: 0, count: 32 << 10)
    private let top = "driver=copy-on-read,file.driver=qcow2,file.file.filename=top"
    private let named =
        ",file.backing.driver=qcow2,file.backing.file.filename=middle,file.backing.node-name=mid,"
        + "file.backing.backing.driver=raw,file.backing.backing.file.filename=base,"
        + "file.backing.backing.node-name=base"

    init() throws {
        images.raw("base", Self.base)
        try images.create("middle", size: Self.size, backing: "base", format: "raw")
        try images.create("top", size: Self.size, backing: "middle", format: "qcow2")
        let middle = try images.open("driver=qcow2,file.filename=middle")
        try middle.put([UInt8](repeating: 7, count: 4096), at: 8192)
        try middle.close()
    }

    /// The units of the image itself that have an entry; `z` where that is a zero entry.
    private func units(_ name: String = "top") throws -> String {
        let image = try images.open("driver=qcow2,file.filename=\(name)", readOnly: true)
        defer { try? image.close() }
        return try stride(from: 0, to: Self.size, by: 4096).reduce(into: "") { text, offset in
            switch try image.layerExtent(at: offset, limit: 4096).status {
            case .unallocated: text += "-"
            case .zero: text += "z"
            default: text += "d"
            }
        }
    }

    @Test func whatIsReadIsStoredInWholeUnits() throws {
        let node = try images.open(top)
        #expect(try node.readBytes(at: 5000, count: 4000) == Array(Self.base[5000..<8192]) + [7] * 808)
        try node.close()
        #expect(try units() == "-dd-------------")
        #expect(try units("middle") == "--d-------------")
        // The image does not need the files below for these bytes.
        images.raw("base", [UInt8](repeating: 0, count: 32 << 10))
        let again = try images.open("driver=qcow2,file.filename=top", readOnly: true)
        #expect(try again.readBytes(at: 4096, count: 4096) == Array(Self.base[4096..<8192]))
        try again.close()
    }

    @Test func zeroesBecomeZeroEntries() throws {
        let node = try images.open(top)
        #expect(try node.readBytes(at: 40 << 10, count: 8192) == [0] * 8192)
        try node.close()
        #expect(try units() == "----------zz----")
    }

    @Test func writesCopyNothing() throws {
        let node = try images.open(top)
        try node.put([1], at: 100)
        try node.writeZeroes(at: 16 << 10, count: 4096)
        try node.discard(at: 20 << 10, count: 4096)
        try node.close()
        #expect(try units().hasPrefix("d---z"))
        #expect(try units().dropFirst(6).allSatisfy { $0 == "-" })
    }

    /// Bytes of layers below the bottom one are read, and not stored. The zeroes behind the end of a short
    /// layer count as its own.
    @Test(arguments: [("mid", "--d-------------"), ("base", "dddd--------z---")])
    func theBottomEndsTheCopying(_ bottom: String, _ expected: String) throws {
        let node = try images.open(top + named + ",bottom=\(bottom)")
        #expect(
            try node.readBytes(at: 0, count: 16384)
                == Array(Self.base[..<8192]) + [7] * 4096 + Array(Self.base[12288..<16384]))
        #expect(try node.readBytes(at: 48 << 10, count: 4096) == [0] * 4096)
        try node.close()
        #expect(try units() == expected)
    }

    @Test func theBottomMustBeALayer() throws {
        #expect(images.refusal(top + ",bottom=no") == "Bottom node 'no' not found")
        // The storage of a layer is none.
        #expect(images.refusal(top + ",file.file.node-name=f,bottom=f") == "Bottom node 'f' not found")
        let filtered = top.replacing(
            "file.driver=qcow2,file.file",
            with: "file.driver=throttle,file.limits.iops-total=1000000,"
                + "file.node-name=t,file.file.driver=qcow2,file.file.file")
        #expect(images.refusal(filtered + ",bottom=t") == "Bottom node 't' is a filter")
        #expect(images.refusal(top + ",file.node-name=x,bottom=x") == nil)
        #expect(images.store.openDisks == 0)
    }

    @Test func theNodeBelowMustBeWritable() throws {
        #expect(images.refusal(top, readOnly: true) == "Block node is read-only")
        #expect(images.refusal(top + ",read-only=on") == "Block node is read-only")
        let node = try images.open(top)
        try node.reopen(readOnly: true)
        _ = try node.readBytes(at: 0, count: 4096)
        try node.reopen(readOnly: false)
        try node.close()
        #expect(try units() == "----------------")
    }

    /// A read that cannot store what it read fails, and stores nothing wrong.
    @Test func aFullDiskFailsTheRead() throws {
        let node = try images.open(top)
        images.store.capacity = images.store.usedBlocks
        #expect(failure { _ = try node.readBytes(at: 0, count: 4096) }?.kind == .noSpace)
        images.store.capacity = nil
        #expect(try node.readBytes(at: 0, count: 4096) == Array(Self.base[..<4096]))
        try node.close()
        #expect(try units() == "d---------------")
    }

    /// A writer and readers of the same units: no old bytes come back over what was written.
    @Test func readersDoNotUndoWrites() throws {
        let node = try images.open(top)
        try WorkerThreads.run(4) { thread throws(BlockError) in
            for index in 0..<64 {
                let offset = index * 1024
                if thread == 0 {
                    try node.write([UInt8](repeating: 9, count: 512).span.bytes, at: offset)
                } else {
                    _ = try node.readBytes(at: offset, count: 700)
                }
            }
        }
        for index in 0..<64 {
            #expect(try node.readBytes(at: index * 1024, count: 512) == [9] * 512, "\(index)")
        }
        try node.close()
    }

    @Test func aFileIsOnlyPassedThrough() throws {
        let node = try images.open("driver=copy-on-read,file.filename=base")
        #expect(try node.readBytes(at: 0, count: 100) == Array(Self.base[..<100]))
        try node.close()
    }
}

func * (bytes: [UInt8], count: Int) -> [UInt8] {
    [UInt8](repeating: bytes[0], count: count)
}
