import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// Damage, logs and sizes of VHDX images.
@Suite struct VhdxImageTests {
    private static let unit = VhdxImages.unit
    private static let megabyte: UInt64 = 1 << 20

    // MARK: Damage

    struct Damage: Sendable, CustomStringConvertible {
        var description: String
        /// The BAT entries that four filled blocks get; 0 stays as it is.
        var entries: [UInt64]
        var cut = 0
        var corruptions: Int
        var leaks: Int
        /// The first bytes of the blocks after the repair.
        var repaired: [UInt8]
        /// Whether an entry is given up: what it may have referred to stays until the next repair.
        var isLoss: Bool { corruptions > 0 && repaired.contains(0) }
    }

    static let damages = [
        Damage(
            description: "shared block", entries: [0, 4 * megabyte + 6], corruptions: 1, leaks: 1,
            repaired: [1, 1, 3, 4]),
        Damage(
            description: "block outside", entries: [0, 0, 1 << 40 + 6], corruptions: 1, leaks: 1,
            repaired: [1, 2, 0, 4]),
        Damage(
            description: "block over the header", entries: [6], corruptions: 1, leaks: 1,
            repaired: [0, 2, 3, 4]),
        Damage(
            description: "state that is not defined", entries: [0, 0, 0, 4], corruptions: 1, leaks: 1,
            repaired: [1, 2, 3, 0]),
        Damage(
            description: "block partly there, without a parent", entries: [5 * megabyte + 7], corruptions: 1,
            leaks: 1, repaired: [0, 2, 3, 4]),
        // Over the log, whose first entry begins with "l".
        Damage(
            description: "block over the log", entries: [1 * megabyte + 6], corruptions: 1, leaks: 1,
            repaired: [108, 2, 3, 4]),
        Damage(
            description: "file cut in the last block", entries: [], cut: 512 << 10, corruptions: 1, leaks: 0,
            repaired: [1, 2, 3, 4]),
        Damage(
            description: "zero block that gave up its place", entries: [0, 0, 0, 2], corruptions: 0, leaks: 1,
            repaired: [1, 2, 3, 0]),
    ]

    private static func damaged(_ damage: Damage) throws -> SparseBytes {
        var file = try VhdxImages.image(size: 4 * unit, filled: 4)
        for (block, entry) in damage.entries.enumerated() where entry != 0 {
            file.write(VhdxImages.bytes(entry), at: VhdxImages.bat + block * 8)
        }
        file.resize(to: file.count - damage.cut)
        return file
    }

    @Test(arguments: damages) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        let store = TestStore(["disk": try Self.damaged(damage)])
        let before = store["disk"]
        let found = try VhdxImages.check(store)
        #expect(found.corruptions == damage.corruptions && found.leaks == damage.leaks, "\(found)")
        #expect(store["disk"] == before)
        if damage.corruptions > 0 {
            #expect(throws: BlockError.self) { try VhdxImages.open(store, readOnly: false) }
        }
        let repaired = try VhdxImages.check(store, .all)
        let kept = damage.isLoss ? damage.leaks : 0
        #expect(repaired.corruptions == 0 && repaired.leaks == kept, "\(repaired)")
        let second = try VhdxImages.check(store, .leaks)
        #expect(second.leaksFixed == kept, "\(second)")
        #expect(try VhdxImages.check(store) == CheckResult())
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store, readOnly: false)) == damage.repaired)
    }

    @Test(.timeLimit(.minutes(2)), arguments: damages)
    func aRepairIsStoppedAnywhere(_ damage: Damage) throws {
        try checkInterruption(
            of: ["disk": try Self.damaged(damage)],
            action: { store in _ = try VhdxImages.check(store, .all) },
            verify: { store in
                _ = try VhdxImages.check(store, .all)
                _ = try VhdxImages.check(store, .leaks)
                guard try VhdxImages.check(store) == CheckResult() else { throw Mismatch("not repaired") }
                let bytes = try VhdxImages.firstBytes(VhdxImages.open(store))
                guard bytes == damage.repaired else { throw Mismatch("other bytes: \(bytes)") }
            })
    }

    @Test func eitherCopyIsEnough() throws {
        for offset in Vhdx.headerOffsets + Vhdx.regionTableOffsets {
            var file = try VhdxImages.image(size: 2 * Self.unit, filled: 2)
            file.write([1, 2, 3, 4], at: offset + 200)
            let store = TestStore(["disk": file])
            #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 2])
            let isTable = Vhdx.regionTableOffsets.contains(offset)
            #expect(try VhdxImages.check(store).corruptions == (isTable ? 1 : 0))
            #expect(try VhdxImages.check(store, .all).corruptions == 0)
            #expect(try VhdxImages.check(store) == CheckResult())
            #expect(store["disk"]?.read(at: offset + 200, count: 4) == [0, 0, 0, 0])
        }
    }

    /// All blocks of a disk have one place: those behind the first get copies, a limited number at a time.
    @Test(.timeLimit(.minutes(2)), arguments: [0, 7]) func aPlaceOfThousandsOfBlocks(_ value: UInt8) throws {
        let count = 5000
        var file = try VhdxImages.image(size: count * Self.unit, [(.blockStateZero, "off")])
        file.resize(to: VhdxImages.data + Self.unit)
        if value != 0 { file.write([value], at: VhdxImages.data + 9000) }
        let entry = VhdxImages.bytes(UInt64(VhdxImages.data) | 6)
        // The second chunk's entries come after the entry of a bitmap.
        for index in 0...count where index != 4096 { file.write(entry, at: VhdxImages.bat + index * 8) }
        let store = TestStore(["disk": file])
        #expect(try VhdxImages.check(store).corruptions == count - 1)
        let first = try VhdxImages.check(store, .all)
        let copies = value == 0 ? count - 1 : 4096
        #expect(first.corruptionsFixed == copies && first.corruptions == count - 1 - copies, "\(first)")
        if value != 0 { #expect(try VhdxImages.check(store, .all).corruptions == 0) }
        #expect(try VhdxImages.check(store) == CheckResult())
        let node = try VhdxImages.open(store)
        for block in [0, 1, 2, 4095, 4096, count - 1] {
            #expect(try node.readBytes(at: block * Self.unit + 8999, count: 3) == [0, value, 0])
        }
        // What is empty takes no space.
        let stored = value == 0 ? 1 : count
        #expect(try #require(store["disk"]).count <= VhdxImages.data + stored * Self.unit)
    }

    // MARK: Space that is used again

    /// A block loses its place while so many pages of the BAT are changed that these are written first.
    @Test(.timeLimit(.minutes(4))) func aPlaceIsTakenAgainOnceNothingRefersToIt() throws {
        let pages = 512
        let prepared = TestStore()
        try VhdxImages.create("base", in: prepared, size: Self.unit)
        try VhdxImages.create(
            in: prepared, size: (pages + 1) * 512 * Self.unit, filled: 1, backing: "base")
        try checkInterruption(
            of: prepared.files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                var failure: (any Error)?
                func goOn(_ step: () throws -> Void) {
                    do { try step() } catch { failure = failure ?? error }
                }
                for page in 1...pages {
                    // Over a parent, these change entries and no more.
                    goOn { try node.discard(at: (page * 512 + 5) * Self.unit, count: Self.unit) }
                }
                goOn { try node.discard(at: 0, count: Self.unit) }
                goOn {
                    let bytes = [UInt8](repeating: 3, count: Self.unit)
                    try node.write(bytes.span.bytes, at: 400 * Self.unit)
                }
                goOn { try node.close() }
                if let failure { throw failure }
            },
            verify: { store in
                let node = try VhdxImages.open(store)
                for (block, value) in [(0, 1), (400, 3)] {
                    let bytes = try node.readBytes(at: block * Self.unit, count: Self.unit)
                    guard [0, UInt8(value)].contains(bytes[0]), bytes.allSatisfy({ $0 == bytes[0] }) else {
                        throw Mismatch("block \(block) holds \(bytes[0])")
                    }
                }
                try node.close()
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    // MARK: Map

    /// Runs go on over pages of the BAT and over the entries of bitmaps.
    @Test(arguments: ["on", "off"]) func runsAreWhole(_ marksZero: String) throws {
        let count = 10000
        let store = TestStore([
            "disk": try VhdxImages.image(size: count * Self.unit, [(.blockStateZero, marksZero)])
        ])
        let node = try VhdxImages.open(store, readOnly: false)
        for block in [3, 4094, 4095, 4096, 4097, 9000] {
            try node.write([1].span.bytes, at: block * Self.unit)
        }
        try node.discard(at: 9000 * Self.unit, count: Self.unit)
        var runs: [[Int]] = []
        var offset = 0
        while offset < count * Self.unit {
            let extent = try node.layerExtent(at: offset, limit: count * Self.unit - offset)
            if case .data = extent.status {
                runs.append([offset / Self.unit, extent.length / Self.unit])
            } else {
                #expect(extent.status == .zero(hostOffset: nil))
            }
            offset += extent.length
        }
        #expect(runs == [[3, 1], [4094, 4]])
        #expect(try node.layerExtent(at: 5000 * Self.unit + 7, limit: 9).length == 9)
        #expect(
            try node.layerExtent(at: 4100 * Self.unit + 7, limit: .max).length == 5900 * Self.unit - 7)
        try node.close()
    }

    // MARK: Log

    @Test func aDirtyImageIsReadWithoutChangingIt() throws {
        let file = try VhdxImages.dirty()
        let store = TestStore(["disk": file])
        let node = try VhdxImages.open(store)
        #expect(try VhdxImages.firstBytes(node) == [1, 9, 0])
        #expect(try #require(node.format).describe().isDirty)
        try node.close()
        #expect(try VhdxImages.check(store).corruptions == 0)
        #expect(store["disk"] == file && store.log.isEmpty)
    }

    @Test(.timeLimit(.minutes(1))) func theLogIsReplayedStoppedAnywhere() throws {
        try checkInterruption(
            of: ["disk": try VhdxImages.dirty()],
            action: { store in try VhdxImages.open(store, readOnly: false).close() },
            verify: { store in
                let bytes = try VhdxImages.firstBytes(VhdxImages.open(store))
                guard bytes == [1, 9, 0] else { throw Mismatch("other bytes: \(bytes)") }
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
        let store = TestStore(["disk": try VhdxImages.dirty()])
        try VhdxImages.open(store, readOnly: false).close()
        let node = try VhdxImages.open(store)
        #expect(try !(#require(node.format).describe().isDirty))
        #expect(try VhdxImages.check(store) == CheckResult())
    }

    @Test func aRepairReplaysTheLog() throws {
        let store = TestStore(["disk": try VhdxImages.dirty()])
        #expect(try VhdxImages.check(store, .all).corruptionsFixed == 1)
        #expect(try VhdxImages.check(store, .all) == CheckResult())
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 9, 0])
    }

    /// Two entries, of which the second, that goes round the end of the log, zeroes a page and changes it
    /// again.
    @Test func entriesOfAllKindsAreReplayed() throws {
        var file = try VhdxImages.image(size: 3 * Self.unit, filled: 3)
        let guid = ImageUUID(bytes: Array(1...16))
        let table = file.read(at: VhdxImages.bat, count: 4096)
        let last = Self.unit - 8192
        for (place, sequence) in [(last - 8192, 7), (last, 8)] {
            let entry = VhdxLogEntry.make(
                [VhdxPage(offset: VhdxImages.bat, bytes: table)], sequence: UInt64(sequence), at: last - 8192,
                guid: guid, flushed: Self.unit, needed: 20 * Self.unit)
            file.write(entry.bytes.array, at: Self.unit + place)
        }
        // Before the page, the second entry zeroes it; a third page makes it go round.
        var entry = file.read(at: Self.unit + last, count: 8192)
        let descriptor = Array(entry[64..<96])
        entry.replaceSubrange(96..<128, with: descriptor)
        entry.replaceSubrange(
            64..<96,
            with: Array("zero".utf8) + [0, 0, 0, 0] + VhdxImages.bytes(4096) + descriptor[16..<32])
        entry.replaceSubrange(128..<160, with: descriptor)
        entry[144] = 0x00
        entry[145] = 0x10
        entry.replaceSubrange(8..<12, with: VhdxImages.bytes(12288, 4))
        entry.replaceSubrange(24..<28, with: [3, 0, 0, 0])
        entry += entry[4096..<8192]
        let sum = entry.span.bytes.crc32c(zeroing: 4) ?? 0
        entry.replaceSubrange(4..<8, with: VhdxImages.bytes(UInt64(sum), 4))
        file.write(Array(entry[0..<8192]), at: Self.unit + last)
        file.write(Array(entry[8192...]), at: Self.unit)
        VhdxImages.patchHeaders(&file, guid.mixedEndian, at: 0x30)
        // Without the log, the disk would be empty.
        file.write([UInt8](repeating: 0, count: 4096), at: VhdxImages.bat)
        let store = TestStore(["disk": file])
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 2, 3])
        #expect(store["disk"] == file)
        try VhdxImages.open(store, readOnly: false).close()
        #expect(try VhdxImages.firstBytes(VhdxImages.open(store)) == [1, 2, 3])
        #expect(store["disk"]?.read(at: VhdxImages.bat + 4096, count: 4096) == table)
    }

    // MARK: Sizes

    /// The BAT of a disk of 128 GiB fills its region.
    @Test(.timeLimit(.minutes(3)), arguments: ["dynamic", "full"]) func growingMovesTheTable(_ kind: String)
        throws
    {
        let size = 128 << 30
        let grown = kind == "full" ? size + (300 << 30) : size + Self.unit
        let files = ["disk": try VhdxImages.image(size: size, filled: 2)]
        try checkInterruption(
            of: files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: grown)
                try node.write([UInt8(9)].span.bytes, at: grown - 1)
                try node.flush()
                try node.close()
            },
            verify: { store in
                let node = try VhdxImages.open(store)
                let length = try node.length()
                let ends = try [0, Self.unit, length - 1].map { try node.readBytes(at: $0, count: 1)[0] }
                guard
                    length == size && ends == [1, 2, 0]
                        || length == grown && [0, 9].contains(ends[2])
                            && ends[0...1] == [1, 2]
                else { throw Mismatch("\(length) \(ends)") }
                try node.close()
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    @Test(.timeLimit(.minutes(2)), arguments: ["dynamic", "fixed"]) func sizesChangeInPlace(_ kind: String)
        throws
    {
        let half = Self.unit / 2
        let files = ["disk": try VhdxImages.image(size: 4 * Self.unit, filled: 4, [(.subformat, kind)])]
        try checkInterruption(
            of: files,
            action: { store in
                let node = try VhdxImages.open(store, readOnly: false)
                defer { try? node.close() }
                try node.resize(to: Self.unit + half)
                try node.resize(to: 6 * Self.unit)
                try node.close()
            },
            verify: { store in
                let node = try VhdxImages.open(store)
                let bytes = try VhdxImages.firstBytes(node)
                let tail = try node.readBytes(
                    at: Self.unit + half, count: node.length() == Self.unit + half ? 0 : 1)
                let isRight = [[1, 2, 3, 4], [1, 2], [1, 2, 0, 0, 0, 0]].contains(bytes)
                guard isRight, bytes.count < 6 || tail == [0] else { throw Mismatch("\(bytes) \(tail)") }
                try node.close()
                guard try VhdxImages.check(store).corruptions == 0 else { throw Mismatch("corrupt") }
            })
    }

    @Test func spaceIsUsedAgain() throws {
        let store = TestStore(["disk": try VhdxImages.image(size: 8 * Self.unit, filled: 4)])
        let node = try VhdxImages.open(store, readOnly: false)
        try node.writeZeroes(at: Self.unit, count: 2 * Self.unit)
        try node.flush()
        let bytes = [UInt8](repeating: 8, count: Self.unit)
        try node.write(bytes.span.bytes, at: 6 * Self.unit)
        try node.write(bytes.span.bytes, at: 7 * Self.unit)
        #expect(try VhdxImages.firstBytes(node) == [1, 0, 0, 4, 0, 0, 8, 8])
        try node.close()
        #expect(store["disk"]?.count == 8 * Self.unit)
        #expect(try VhdxImages.check(store) == CheckResult())
    }
}
