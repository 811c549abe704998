import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Damaged block tables: what a check finds, and what a repair keeps.
@Suite struct VhdDamageTests {
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
        let image = try VhdImageTests.dynamic([1, 2, 3, 4])
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
        #expect(try VhdBytes.firstBytes(node, unit: VhdImageTests.block) == damage.repaired)
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
                let bytes = try VhdBytes.firstBytes(VhdBytes.open(store), unit: VhdImageTests.block)
                guard bytes == damage.repaired else { throw Mismatch("\(bytes)") }
            })
    }

    /// All blocks of a disk have one place: those behind the first get copies, a limited number at a time.
    @Test(.timeLimit(.minutes(2)), arguments: [0, 7]) func aPlaceOfThousandsOfBlocks(_ value: UInt8) throws {
        let count = 5000
        let options = ["block_size": "4096", "force_size": "on"]
        let image = try VhdBytes(size: count * VhdImageTests.block, options)
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
            #expect(try again.readBytes(at: block * VhdImageTests.block + 899, count: 3) == [0, value, 0])
        }
    }

    /// Thousands of entries that point nowhere are repaired at once.
    @Test(.timeLimit(.minutes(1))) func thousandsOfEntriesPointNowhere() throws {
        let count = 20000
        let image = try VhdBytes(
            size: count * VhdImageTests.block, ["block_size": "4096", "force_size": "on"])
        for block in 0..<count { image.setEntry(block, 0x7FFF_FFFF - UInt32(block)) }
        #expect(try VhdBytes.check(image.store, .all).corruptionsFixed == count)
        #expect(try VhdBytes.check(image.store).corruptions == 0)
    }
}
