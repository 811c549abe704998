import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

/// Footers and headers that strangers wrote.
@Suite struct HostileVhdTests {
    /// The size that the image goes by is more than its table has entries for; its opener goes by another.
    @Test(arguments: [RepairMode.leaks, .all]) func aDiskLongerThanItsTable(_ repair: RepairMode) throws {
        let image = try VhdImageTests.dynamic([1, 2])
        let footer = image.bytes.read(at: 0, count: 512)
        image.bytes.write([UInt8](repeating: 0, count: 6 * VhdImageTests.block), at: image.bytes.count - 512)
        image.bytes.write(footer, at: image.bytes.count)
        image.changeFooters(ImageBytes.big(UInt64(100 << 30)), at: 48)
        image.changeFooters([0, 1, 1, 40], at: 56)
        #expect(throws: BlockError.self) { try image.open() }
        let node = try image.open(
            readOnly: false, forCheck: true, options: ["force_size_calc": "chs"])
        let checkable = try #require(node.format as? any Checkable)
        #expect(try checkable.check(repair: repair, report: { _ in }).leaksFixed > 0)
        try node.close()
        let again = try image.open(options: ["force_size_calc": "chs"])
        #expect(try VhdBytes.firstBytes(again, unit: VhdImageTests.block) == [1, 2, 0, 0, 0])
    }

    static let hostileFooters = ByteDamage.table(
        ("version", 12, [[0, 2]]),
        (
            "offset of the header", 16,
            [
                [0x80], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1],
            ]
        ),
        ("disk size", 48, [[0xFF], [0, 0, 2], [0, 0, 1]]),
        ("kind of disk", 60, [[0, 0, 0, 9], [0, 0, 0, 0]]))
    static let hostileHeaders = ByteDamage.table(
        ("cookie", 0, [[0]]),
        (
            "offset of the block table", 16,
            [
                [0x80], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0, 4, 0],
                [0, 0, 0, 0, 0, 0, 6, 1], [0, 0, 0, 1],
            ]
        ),
        ("version", 24, [[0, 9]]),
        (
            "number of blocks", 28,
            [[0, 0, 0, 7], [0xFF, 0xFF, 0xFF, 0xFF], [0, 0x40, 0, 1], [0, 0x40, 0, 0]]
        ),
        ("block size", 32, [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0x10, 1], [0x80, 0, 0, 0]]))

    @Test(arguments: hostileFooters) func hostileFootersAreRefused(_ damage: ByteDamage<Void>) throws {
        let image = try VhdImageTests.dynamic([1])
        image.changeFooters(damage.bytes, at: damage.offset)
        #expect(throws: BlockError.self) { try image.open() }
    }

    @Test(arguments: hostileHeaders) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let image = try VhdImageTests.dynamic([1])
        image.changeHeader(damage.bytes, at: damage.offset)
        #expect(throws: BlockError.self) { try image.open() }
    }

    @Test func wrongChecksumsOfHeaders() throws {
        let image = try VhdImageTests.dynamic([1])
        image.bytes.write([1], at: 512 + 1000)
        let heard = Mutex<[String]>([])
        var opener = VhdBytes.opener(image.store)
        opener.warn = { text in heard.withLock { $0.append(text) } }
        let node = try opener.open("disk", format: "vpc")
        #expect(try VhdBytes.firstBytes(node, unit: VhdImageTests.block).first == 1)
        #expect(
            heard.withLock { $0 } == [
                "disk: The checksum of the VHD image's header is wrong; 'check -r all' repairs it"
            ])
        // A header that may lie about the table is not written by.
        #expect(throws: BlockError.self) { try image.open(readOnly: false) }
        #expect(throws: BlockError.self) { try node.reopen(readOnly: false) }
        #expect(try VhdBytes.check(image.store).corruptions == 1)
        #expect(try VhdBytes.check(image.store, .leaks).corruptions == 1)
        #expect(try VhdBytes.check(image.store, .all).corruptionsFixed == 1)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
        #expect(try VhdBytes.firstBytes(image.open(readOnly: false), unit: VhdImageTests.block).first == 1)
    }

    /// Killed at any write, the repair of a header leaves the old one or the new one.
    @Test func anInterruptedRepairOfTheHeader() throws {
        for number in 1..<20 {
            let image = try VhdImageTests.dynamic([1])
            image.bytes.write([1], at: 512 + 1000)
            image.store.faults.arm(number, .fullFromThen)
            let hasFailed = (try? VhdBytes.check(image.store, .all)) == nil
            image.store.faults.disarm()
            #expect(try VhdBytes.firstBytes(image.open(), unit: VhdImageTests.block).first == 1)
            #expect(try VhdBytes.check(image.store, .all).corruptions == 0)
            if !hasFailed { return }
        }
        Issue.record("It never succeeded")
    }

    /// Only the major version counts, of footers and headers.
    @Test func otherMinorVersionsAreRead() throws {
        let image = try VhdImageTests.dynamic([1])
        image.changeFooters(ImageBytes.big(UInt32(0x0001_0007)), at: 12)
        image.changeHeader(ImageBytes.big(UInt32(0x0001_0003)), at: 24)
        #expect(try VhdBytes.firstBytes(image.open(readOnly: false), unit: VhdImageTests.block).first == 1)
    }
}
