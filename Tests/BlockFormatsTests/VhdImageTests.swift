import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

/// Images as others lay them out, and damaged ones.
@Suite struct VhdImageTests {
    static let block = 4096

    static func dynamic(_ values: [UInt8] = []) throws -> VhdBytes {
        let image = try VhdBytes(size: 8 * block, ["block_size": "4096", "force_size": "on"])
        try image.fill(values, unit: block)
        return image
    }

    static func fixed() throws -> VhdBytes {
        let image = try VhdBytes(size: 8 * block, ["subformat": "fixed", "force_size": "on"])
        try image.fill([1, 2, 3, 4, 5, 6, 7, 8], unit: block)
        return image
    }

    // MARK: Sizes

    static let creators: [(String, isByGeometry: Bool)] = [
        ("win ", false), ("wa\0\0", false), ("qem2", false), ("d2v ", false), ("tap\0", false),
        ("CTXS", false), ("qemu", true), ("vpc ", true), ("vs  ", false), ("vbox", false), ("winX", false),
        ("caml", false), ("d2v\0", false), ("vpc\0", false), ("QEMU", false), ("\0\0\0\0", false),
    ]

    @Test(arguments: creators.indices) func theCreatorSaysBySomeRule(_ index: Int) throws {
        let (creator, isByGeometry) = Self.creators[index]
        for subformat in ["fixed", "dynamic"] {
            let image = try VhdBytes(size: 1 << 20, ["subformat": subformat, "force_size": "on"])
            image.changeFooters(Array(creator.utf8), at: 28)
            image.changeFooters([0, 10, 4, 17], at: 56)
            let node = try image.open()
            #expect(try node.length() == (isByGeometry ? 10 * 4 * 17 * 512 : 1 << 20), "\(creator)")
            for (rule, size) in [("chs", 10 * 4 * 17 * 512), ("current_size", 1 << 20)] {
                let node = try image.open(options: ["force_size_calc": rule])
                #expect(try node.length() == size)
            }
            image.changeFooters([0xFF, 0xFF, 16, 255], at: 56)
            let large = try image.open(options: ["force_size_calc": "chs"])
            #expect(try large.length() == 1 << 20)
            // As many sectors with other heads are the largest geometry too.
            image.changeFooters([0xFF, 0xFF, 255, 16], at: 56)
            #expect(try image.open().length() == 1 << 20)
        }
        #expect(throws: BlockError.self) { try Self.fixed().open(options: ["force_size_calc": "x"]) }
    }

    /// The geometry alone is what QEMU before 10.0 sees of creators that it does not know.
    @Test(arguments: ["caml", "wa\0\0", "qemu", "vpc ", "win ", "qem2"]) func allSeeTheNewSize(
        _ creator: String
    ) throws {
        for (size, isExact) in [(10 * 4 * 17 * 512 * 2, true), ((1 << 20) + 512, false)] {
            let image = try VhdBytes(size: 1 << 20, ["subformat": "fixed", "force_size": "on"])
            image.changeFooters(Array(creator.utf8), at: 28)
            image.changeFooters([0, 30, 4, 17], at: 56)
            let node = try image.open(readOnly: false)
            try node.resize(to: size)
            try node.close()
            #expect(try image.open().length() == size)
            let footer = image.bytes.read(at: image.bytes.count - 512, count: 512)
            let name = String(decoding: footer[28..<32], as: UTF8.self)
            #expect(name == (isExact || creator == "win " ? creator : "qem2"))
            let sectors = (Int(footer[56]) << 8 | Int(footer[57])) * Int(footer[58]) * Int(footer[59])
            let isLargest = sectors == 65535 * 16 * 255
            #expect(isLargest || sectors * 512 == size || name == "win ", "\(creator) \(sectors)")
        }
    }

    /// What qemu-img 7.2 makes of these sizes.
    @Test(arguments: [
        (64 << 20, 67_125_248), (100 << 20, 104_865_792), (1 << 30, 1_073_995_776), (512, 34816),
        (1 << 20, 1_079_296), (3_146_240, 3_168_256), (127 << 30, 136_365_219_840),
        (136_899_000_320, 136_899_000_320), (136_899_993_600, 136_899_993_600), (2040 << 30, 2040 << 30),
    ])
    func newDisksHaveAGeometry(_ wanted: Int, _ size: Int) throws {
        #expect(try VhdBytes(size: wanted).open().length() == size)
        #expect(try VhdBytes(size: wanted, ["force_size": "on"]).open().length() == wanted)
    }

    @Test func azureWantsWholeMebibytes() throws {
        let image = try VhdBytes(size: 1_000_001, ["azure": "on"])
        #expect(image.bytes.count == 1 << 20 + 512 || image.bytes.count == (1 << 20) + 512)
        let node = try image.open(format: nil)
        #expect(try node.length() == 1 << 20)
        #expect(image.bytes.read(at: 1 << 20, count: 8) == Array("conectix".utf8))
        #expect(throws: BlockError.self) { try VhdBytes(size: (2040 << 30) + 512) }
        #expect(throws: BlockError.self) { try VhdBytes(size: 512, ["uuid": "x"]) }
        #expect(throws: BlockError.self) { try VhdBytes(size: 512, ["subformat": "x"]) }
        for size in ["5000", "512", "2048"] {
            #expect(throws: BlockError.self) { try VhdBytes(size: 512, ["block_size": size]) }
        }
        #expect(throws: BlockError.self) { try VhdBytes(size: 512, ["subformat": "differencing"]) }
    }

    /// What a failed change left undone is done before the image is read-only.
    @Test func aFixedDiskIsSettledBeforeItIsReadOnly() throws {
        let image = try Self.fixed()
        let size = 8 * Self.block
        let node = try image.open(readOnly: false)
        var number = 1
        repeat {
            image.store.faults.arm(number, .ioErrorOnce)
            #expect(throws: BlockError.self, "call \(number)") { try node.resize(to: size - 4096) }
            image.store.faults.disarm()
            number += 1
        } while try number < 20 && image.open().length() == size
        #expect(try image.open().length() == size - 4096)
        // The new footer is in the file, and may be durable or not.
        #expect(try node.length() == size)
        try node.reopen(readOnly: true)
        #expect(try image.open().length() == size)
        try node.close()
    }

    // MARK: Footers

    @Test func aFixedDiskIsKnownByItsEnd() throws {
        let image = try Self.fixed()
        let node = try image.open(readOnly: false, format: nil)
        #expect(node.driverName == "vpc" && node.format?.virtualSize == 8 * Self.block)
        // What a guest writes at the start is not the image's own.
        let child = try Self.dynamic()
        try node.write(child.bytes.read(at: 0, count: 4096).span.bytes, at: 0)
        try node.close()
        let again = try image.open(format: nil)
        #expect(try again.readBytes(at: 512, count: 8) == Array("cxsparse".utf8))
    }

    @Test(arguments: [true, false]) func footersOfOldHaveAByteLess(_ isFixed: Bool) throws {
        let image = try isFixed ? Self.fixed() : Self.dynamic([1, 2, 3, 4, 5, 6, 7, 8])
        image.bytes.resize(to: image.bytes.count - 1)
        for format in ["vpc", nil] {
            let node = try image.open(readOnly: false, format: format)
            #expect(try VhdBytes.firstBytes(node, unit: Self.block) == [1, 2, 3, 4, 5, 6, 7, 8])
            try node.close()
        }
        #expect(try VhdBytes.check(image.store).corruptions == 0)
        let node = try image.open(readOnly: false)
        try node.resize(to: 9 * Self.block)
        try node.close()
        #expect(try VhdBytes.firstBytes(image.open(), unit: Self.block) == [1, 2, 3, 4, 5, 6, 7, 8, 0])
        #expect(try VhdBytes.check(image.store).corruptions == 0)
    }

    @Test(arguments: [0, 1]) func oneFooterIsEnough(_ damaged: Int) throws {
        let image = try Self.dynamic([1, 0, 3])
        let place = image.footers[damaged]
        image.bytes.write([0x55], at: place + 100)
        #expect(try VhdBytes.firstBytes(image.open(), unit: Self.block) == [1, 0, 3, 0, 0, 0, 0, 0])
        #expect(try VhdBytes.check(image.store).corruptions == 1)
        let copy = image.bytes
        #expect(try VhdBytes.check(image.store, .all).corruptionsFixed == 1)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
        image.bytes = copy
        // Writing mends it, too.
        try image.fill([1], unit: Self.block)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
    }

    @Test func twoBadFootersAreRepairedOnly() throws {
        for image in [try Self.dynamic([1, 0, 3]), try Self.fixed()] {
            let bytes = try VhdBytes.firstBytes(image.open(), unit: Self.block)
            for place in image.footers { image.bytes.write([0x55], at: place + 100) }
            #expect(throws: BlockError.self) { try image.open() }
            #expect(try VhdBytes.check(image.store).corruptions == 1)
            #expect(try VhdBytes.check(image.store, .all).corruptionsFixed == 1)
            #expect(try VhdBytes.firstBytes(image.open(), unit: Self.block) == bytes)
        }
    }

    @Test func anOlderCopyIsMended() throws {
        let image = try Self.dynamic([1, 0, 3])
        image.changeFooters([9], at: 27, only: 0)
        #expect(try VhdBytes.check(image.store).leaks == 1)
        #expect(try VhdBytes.check(image.store, .leaks).leaksFixed == 1)
        #expect(try VhdBytes.check(image.store).leaks == 0)
    }

    @Test func aFixedDiskLongerThanItsFile() throws {
        let image = try Self.fixed()
        image.changeFooters(ImageBytes.big(UInt64(10 * Self.block)), at: 48)
        #expect(throws: BlockError.self) { try image.open() }
        #expect(try VhdBytes.check(image.store).corruptions == 1)
        #expect(try VhdBytes.check(image.store, .all).corruptions == 0)
        #expect(try VhdBytes.check(image.store) == VhdBytes.check(image.store, .all))
        #expect(try VhdBytes.firstBytes(image.open(), unit: Self.block) == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0])
    }

    // MARK: Blocks

    /// Programs that mark sectors as they are written leave gaps in the bitmaps of dynamic disks.
    @Test func bitmapsOfDynamicDisksAreCompleted() throws {
        let image = try Self.dynamic([1])
        let place = Int(image.entry(0)) * 512
        image.bytes.write([0x40], at: place)
        #expect(try VhdBytes.firstBytes(image.open(), unit: 512).prefix(8).allSatisfy { $0 == 1 })
        let node = try image.open(readOnly: false)
        try node.write([UInt8(9)].span.bytes, at: 1024)
        try node.close()
        #expect(image.bytes.read(at: place, count: 1) == [0xFF])
    }

    @Test func sectorsOfAChildAreItsOwn() throws {
        let base = try VhdBytes("base", size: 8 * Self.block, ["force_size": "on"])
        try base.fill([7, 7, 7], unit: Self.block)
        let options = ["backing_file": "base", "backing_fmt": "vpc", "block_size": "4096"]
        let image = try VhdBytes(size: 8 * Self.block, options, in: base.store)
        let node = try image.open(readOnly: false)
        try node.write([UInt8](repeating: 9, count: 100).span.bytes, at: 4096 + 600)
        let around = try node.readBytes(at: 4096 + 599, count: 102)
        #expect(around == [7] + [UInt8](repeating: 9, count: 100) + [7])
        #expect(try node.layerExtent(at: 4096, limit: 4096) == Extent(.unallocated, length: 512))
        #expect(try node.layerExtent(at: 4096 + 1024, limit: 9000).status == .unallocated)
        try node.writeZeroes(at: 8192, count: 1024)
        try node.discard(at: 4096, count: 1024)
        #expect(
            try VhdBytes.firstBytes(node, unit: 512).prefix(20) == [
                7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 7, 7, 7, 7, 7, 7, 0, 0, 7, 7,
            ])
        try node.close()
        #expect(try VhdBytes.check(image.store) == VhdBytes.check(image.store, .all))
    }

    // MARK: Damage

    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        /// Entries are other blocks' or these numbers.
        var copies: [Int: Int] = [:]
        var entries: [Int: UInt32] = [:]
        /// Bytes that the end of the file loses.
        var lost = 0
        var corruptions = 0
        var leaks = 0
        /// The first bytes of the blocks after the repair.
        var repaired: [UInt8]
    }

    static let damages = [
        Damage(
            description: "shared block", copies: [1: 0], corruptions: 1, leaks: 1,
            repaired: [1, 1, 3, 4, 0, 0, 0, 0]),
        Damage(
            description: "block of three others", copies: [1: 0, 2: 0, 3: 0], corruptions: 3,
            repaired: [1, 1, 1, 1, 0, 0, 0, 0]),
        Damage(
            description: "block over the footer", entries: [1: 0], corruptions: 1, leaks: 1,
            repaired: [1, 0, 3, 4, 0, 0, 0, 0]),
        Damage(
            description: "block far outside", entries: [5: 0xFFFF_FFF0], corruptions: 1,
            repaired: [1, 2, 3, 4, 0, 0, 0, 0]),
        Damage(
            description: "block in the table", entries: [5: 4], corruptions: 1,
            repaired: [1, 2, 3, 4, 0, 0, 0, 0]),
        Damage(
            description: "unmapped in the middle", entries: [1: .max, 2: .max], leaks: 2,
            repaired: [1, 0, 0, 4, 0, 0, 0, 0]),
        Damage(
            description: "unmapped at the ends", entries: [0: .max, 3: .max], leaks: 2,
            repaired: [0, 2, 3, 0, 0, 0, 0, 0]),
        Damage(
            description: "footer and some of a block cut", lost: 1024, corruptions: 2,
            repaired: [1, 2, 3, 4, 0, 0, 0, 0]),
        Damage(
            description: "last block cut", lost: 5000, corruptions: 2, repaired: [1, 2, 3, 0, 0, 0, 0, 0]),
    ]

    static func damaged(_ damage: Damage) throws -> VhdBytes {
        let image = try dynamic([1, 2, 3, 4])
        let before = (0..<4).map { image.entry($0) }
        for (block, other) in damage.copies { image.setEntry(block, before[other]) }
        for (block, entry) in damage.entries { image.setEntry(block, entry) }
        image.bytes.resize(to: image.bytes.count - damage.lost)
        return image
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let image = try Self.damaged(damage)
        let found = try VhdBytes.check(image.store)
        #expect(found.corruptions == damage.corruptions, "\(found)")
        #expect(damage.corruptions > 0 || found.leaks == damage.leaks, "\(found)")
        if damage.corruptions > 0 {
            #expect(throws: BlockError.self) { try image.open(readOnly: false) }
        }
        let repaired = try VhdBytes.check(image.store, .all)
        // Where an entry was given up, what it may have referred to stays until the next repair.
        let kept = damage.corruptions > 0 && damage.copies.isEmpty ? damage.leaks : 0
        #expect(repaired.corruptions == 0 && repaired.leaks == kept, "\(repaired)")
        #expect(try VhdBytes.check(image.store, .leaks).leaksFixed == kept)
        let again = try VhdBytes.check(image.store)
        #expect(again.corruptions == 0 && again.leaks == 0, "\(again)")
        let node = try image.open(readOnly: false)
        #expect(try VhdBytes.firstBytes(node, unit: Self.block) == damage.repaired)
        try node.close()
    }

    @Test(.timeLimit(.minutes(3)), arguments: damages)
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        try checkInterruption(
            of: ["disk": try Self.damaged(damage).bytes],
            action: { store in _ = try VhdBytes.check(store, .all) },
            verify: { store in
                for repair in [RepairMode.all, .leaks] { _ = try VhdBytes.check(store, repair) }
                let result = try VhdBytes.check(store)
                guard result.corruptions == 0, result.leaks == 0 else { throw Mismatch("\(result)") }
                let bytes = try VhdBytes.firstBytes(VhdBytes.open(store), unit: Self.block)
                guard bytes == damage.repaired else { throw Mismatch("\(bytes)") }
            })
    }

    /// All blocks of a disk have one place: those behind the first get copies, a limited number at a time.
    @Test(.timeLimit(.minutes(2)), arguments: [0, 7]) func aPlaceOfThousandsOfBlocks(_ value: UInt8) throws {
        let count = 5000
        let options = ["block_size": "4096", "force_size": "on"]
        let image = try VhdBytes(size: count * Self.block, options)
        let node = try image.open(readOnly: false)
        try node.write([value].span.bytes, at: 900)
        try node.close()
        let place = image.entry(0)
        for block in 1..<count { image.setEntry(block, place) }
        #expect(try VhdBytes.check(image.store).corruptions == count - 1)
        let first = try VhdBytes.check(image.store, .all)
        let copies = value == 0 ? count - 1 : 4096
        #expect(first.corruptionsFixed == copies && first.corruptions == count - 1 - copies, "\(first)")
        if value != 0 { #expect(try VhdBytes.check(image.store, .all).corruptions == 0) }
        #expect(try VhdBytes.check(image.store) == VhdBytes.check(image.store, .all))
        let again = try image.open()
        for block in [0, 1, 2, 4096, count - 1] {
            #expect(try again.readBytes(at: block * Self.block + 899, count: 3) == [0, value, 0])
        }
    }

    /// Thousands of entries that point nowhere are mended at once.
    @Test(.timeLimit(.minutes(1))) func thousandsOfEntriesPointNowhere() throws {
        let count = 20000
        let image = try VhdBytes(size: count * Self.block, ["block_size": "4096", "force_size": "on"])
        for block in 0..<count { image.setEntry(block, 0x7FFF_FFFF - UInt32(block)) }
        #expect(try VhdBytes.check(image.store, .all).corruptionsFixed == count)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
    }

    // MARK: Hostile bytes

    /// The size that the image goes by is more than its table has entries for; its opener goes by another.
    @Test(arguments: [RepairMode.leaks, .all]) func aDiskLongerThanItsTable(_ repair: RepairMode) throws {
        let image = try Self.dynamic([1, 2])
        let footer = image.bytes.read(at: 0, count: 512)
        image.bytes.write([UInt8](repeating: 0, count: 6 * Self.block), at: image.bytes.count - 512)
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
        #expect(try VhdBytes.firstBytes(again, unit: Self.block) == [1, 2, 0, 0, 0])
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
        let image = try Self.dynamic([1])
        image.changeFooters(damage.bytes, at: damage.offset)
        #expect(throws: BlockError.self) { try image.open() }
    }

    @Test(arguments: hostileHeaders) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let image = try Self.dynamic([1])
        image.changeHeader(damage.bytes, at: damage.offset)
        #expect(throws: BlockError.self) { try image.open() }
    }

    @Test func wrongChecksumsOfHeaders() throws {
        let image = try Self.dynamic([1])
        image.bytes.write([1], at: 512 + 1000)
        let heard = Mutex<[String]>([])
        var opener = VhdBytes.opener(image.store)
        opener.warn = { text in heard.withLock { $0.append(text) } }
        let node = try opener.open("disk", format: "vpc")
        #expect(try VhdBytes.firstBytes(node, unit: Self.block).first == 1)
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
        #expect(try VhdBytes.firstBytes(image.open(readOnly: false), unit: Self.block).first == 1)
    }

    /// Killed at any write, the repair of a header leaves the old one or the new one.
    @Test func anInterruptedRepairOfTheHeader() throws {
        for number in 1..<20 {
            let image = try Self.dynamic([1])
            image.bytes.write([1], at: 512 + 1000)
            image.store.faults.arm(number, .fullFromThen)
            let hasFailed = (try? VhdBytes.check(image.store, .all)) == nil
            image.store.faults.disarm()
            #expect(try VhdBytes.firstBytes(image.open(), unit: Self.block).first == 1)
            #expect(try VhdBytes.check(image.store, .all).corruptions == 0)
            if !hasFailed { return }
        }
        Issue.record("It never succeeded")
    }

    /// Only the major version counts, of footers and headers.
    @Test func otherMinorVersionsAreRead() throws {
        let image = try Self.dynamic([1])
        image.changeFooters(ImageBytes.big(UInt32(0x0001_0007)), at: 12)
        image.changeHeader(ImageBytes.big(UInt32(0x0001_0003)), at: 24)
        #expect(try VhdBytes.firstBytes(image.open(readOnly: false), unit: Self.block).first == 1)
    }
}
