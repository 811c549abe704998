import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Images as other programs lay them out.
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
}
