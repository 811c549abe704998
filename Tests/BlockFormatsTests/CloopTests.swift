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
            + [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: sum >> UInt32($0)) }
    }

    static func bigEndian(_ value: Int, bytes: Int) -> [UInt8] {
        (0..<bytes).reversed().map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    static func image(_ disk: [UInt8]) -> SparseBytes {
        let blocks = stride(from: 0, to: disk.count, by: blockBytes).map {
            zlib(Array(disk[$0..<$0 + blockBytes]))
        }
        var head = Array("#!/bin/sh\n#V2.0 Format\nmodprobe cloop".utf8)
        head += [UInt8](repeating: 0, count: 128 - head.count)
        head += bigEndian(blockBytes, bytes: 4) + bigEndian(blocks.count, bytes: 4)
        var offset = head.count + (blocks.count + 1) * 8
        for block in blocks {
            head += bigEndian(offset, bytes: 8)
            offset += block.count
        }
        return SparseBytes(head + bigEndian(offset, bytes: 8) + blocks.flatMap { $0 })
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

    static let hostile: [(offset: Int, bytes: [UInt8])] = [
        (128, [0, 0, 0, 0]), (130, [0, 1]), (128, [0xFF]), (132, [0xFF]), (132, [0, 0x40, 0, 1]), (133, [1]),
        (136, [0xFF]), (144, [0x10]), (136 + 20 * 8, [1]), (150, [0, 0]),
    ]

    @Test(arguments: hostile.indices) func hostileOffsetsAreRefused(_ index: Int) throws {
        var file = Self.image(Self.disk)
        file.write(Self.hostile[index].bytes, at: Self.hostile[index].offset)
        let store = TestStore(["disk": file])
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
