import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// Compressed loop images: laid out here by their description, with stored blocks of deflate.
@Suite struct CloopTests {
    static let blockBytes = 2048

    /// A zlib stream that stores its bytes.
    static func zlib(_ bytes: [UInt8]) -> [UInt8] {
        var low: UInt32 = 1
        var high: UInt32 = 0
        for byte in bytes {
            low = (low + UInt32(byte)) % 65521
            high = (high + low) % 65521
        }
        let count = UInt16(bytes.count)
        let length = [UInt8(truncatingIfNeeded: count), UInt8(count >> 8)]
        let sum = high << 16 | low
        return [0x78, 0x01, 1] + length + length.map { ~$0 } + bytes
            + ImageBytes.big(sum)
    }

    static func image(_ disk: [UInt8]) -> SparseBytes {
        let blocks = stride(from: 0, to: disk.count, by: blockBytes).map {
            zlib(Array(disk[$0..<$0 + blockBytes]))
        }
        var head = Array("#!/bin/sh\n#V2.0 Format\nmodprobe cloop".utf8)
        head += [UInt8](repeating: 0, count: 128 - head.count)
        head += ImageBytes.big(UInt32(blockBytes)) + ImageBytes.big(UInt32(blocks.count))
        var offset = head.count + (blocks.count + 1) * 8
        for block in blocks {
            head += ImageBytes.big(offset)
            offset += block.count
        }
        return SparseBytes(head + ImageBytes.big(offset) + blocks.flatMap { $0 })
    }

    static let disk = Pattern.bytes(stamp: 3, at: 0, count: 20 * blockBytes)

    @Test func aCheckReadsEveryBlock() throws {
        var image = Self.image(Self.disk)
        for (damaged, corruptions) in [(false, 0), (true, 2)] {
            if damaged {
                image.write([7], at: image.count - 100)
                image.write([7], at: image.count - 3 * Self.blockBytes)
            }
            let store = TestStore(["disk": image])
            let node = try ImageOpener(registry: store.registry([CloopDriver.self, RawDriver.self]))
                .open("disk", settings: OpenSettings(forCheck: true))
            let checkable = try #require(node.format as? any Checkable)
            let result = try checkable.check(repair: .none) { _ in }
            #expect(result.corruptions == corruptions && result.totalClusters == 20)
            #expect(throws: BlockError.self) { try checkable.check(repair: .all) { _ in } }
        }
    }

    @Test func reading() throws {
        try checkReadOnlyFormat(CloopDriver.self, image: Self.image(Self.disk), expected: Self.disk)
    }

    static let hostile = ByteDamage.table(
        ("block size", 128, [[0, 0, 0, 0], [0xFF]]),
        ("block size, low half", 130, [[0, 1]]),
        ("number of blocks", 132, [[0xFF], [0, 0x40, 0, 1]]),
        ("number of blocks, second byte", 133, [[1]]),
        ("first offset", 136, [[0xFF]]),
        ("second offset", 144, [[0x10]]),
        ("last offset", 136 + 20 * 8, [[1]]),
        ("second offset, low half", 150, [[0, 0]]))

    @Test(arguments: hostile) func hostileOffsetsAreRefused(_ damage: ByteDamage<Void>) throws {
        let store = TestStore(["disk": damage.applied(to: Self.image(Self.disk))])
        let opener = ImageOpener(registry: store.registry([CloopDriver.self]))
        #expect(throws: BlockError.self) { try opener.open("disk", format: "cloop") }
    }

    @Test(arguments: [0, 1, 3, 500, 2054]) func damagedBlocksAreNoticed(_ offset: Int) throws {
        var file = Self.image(Self.disk)
        let start = 136 + 21 * 8 + offset
        file.write([file.read(at: start, count: 1)[0] ^ 0xFF], at: start)
        let store = TestStore(["disk": file])
        let node = try ImageOpener(registry: store.registry([CloopDriver.self])).open("disk")
        #expect(throws: BlockError.self) { try node.readBytes(at: 0, count: 100) }
        #expect(
            try node.readBytes(at: Self.blockBytes, count: 100)
                == Array(Self.disk[Self.blockBytes...].prefix(100)))
    }
}
