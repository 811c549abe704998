import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// VMDK images that ask for very much, and what is left when a change of one fails.
@Suite struct VmdkLimitTests {
    private typealias Images = VmdkImageTests

    // MARK: Memory and time

    /// Each extent is within the limits; the sum is not.
    @Test(arguments: [128, 129]) func directoriesAreLimitedTogether(_ count: Int) throws {
        var extent = VmdkBytes.sparse(sectors: 16384 * 128 * 8, hasTables: false)
        extent.resize(to: 128 << 10)
        let lines = [String](repeating: "RW 64 SPARSE \"a\"", count: count)
        let store = TestStore(["disk": VmdkBytes.descriptor(lines), "a": extent])
        do throws(BlockError) { try Images.open(store).close() } catch {
            #expect(error.kind == .limit && count == 129)
            return
        }
        #expect(count == 128)
    }

    /// 16 TiB of nothing, and of one table that a whole directory refers to.
    @Test(.timeLimit(.minutes(1)), arguments: [0, 0x1000_0000 << 32]) func largeSESparseExtents(
        _ entry: Int
    ) throws {
        let sectors = 1 << 35
        let entries = sectors / 32768
        var file = SparseBytes()
        for (offset, value) in [
            (0, 0xCAFE_BABE), (8, 0x2_0000_0001), (16, sectors), (24, 8), (32, 64), (80, 1), (88, 1),
            (128, 2), (136, entries / 64), (144, entries / 64 + 2), (152, 64), (192, entries / 64 + 66),
            (200, 16), (512, 0xCAFE_CAFE),
        ] {
            VmdkBytes.put(value, 8, offset, &file)
        }
        // The shared table is in the way of no more than a thousand entries, which have to be read.
        for index in 0..<(entry == 0 ? 0 : 1000) { VmdkBytes.put(entry, 8, 1024 + index * 8, &file) }
        file.resize(to: (entries / 64 + 82) * 512)
        let descriptor = VmdkBytes.descriptor(["RW \(sectors) SESPARSE \"s\""], createType: "seSparse")
        let store = TestStore(["disk": descriptor, "s": file])
        let node = try Images.open(store)
        #expect(try node.status(at: 0, limit: sectors * 512).length == sectors * 512)
        try node.close()
        #expect(try Images.check(store).corruptions == (entry == 0 ? 0 : 999))
    }

    @Test(.timeLimit(.minutes(1)), arguments: [3, 7]) func sharedHolesBecomeZeroes(_ flags: Int) throws {
        let grains = Dictionary(uniqueKeysWithValues: (0..<500).map { ($0, UInt32(64)) })
        var file = Images.single(grains, flags: flags)
        file.zero(64 * 512..<72 * 512)
        let store = TestStore(["disk": file])
        #expect(try Images.check(store).corruptions == 499)
        let repaired = try Images.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.corruptionsFixed == 499, "\(repaired)")
        #expect(try Images.check(store) == CheckResult())
        #expect(try #require(store["disk"]).count == file.count)
        #expect(try Images.firstBytes(Images.open(store), 500).allSatisfy { $0 == 0 })
    }

    // MARK: Growing again

    private static func split(_ first: Int) -> TestStore {
        TestStore([
            "disk.vmdk": VmdkBytes.descriptor(
                ["RW \(first) SPARSE \"disk-s001.vmdk\"", "RW 24 SPARSE \"disk-s002.vmdk\""],
                createType: "twoGbMaxExtentSparse"),
            "disk-s001.vmdk": VmdkBytes.sparse(sectors: 64),
            "disk-s002.vmdk": VmdkBytes.sparse(sectors: 24),
        ])
    }

    /// What a failure leaves must not be in the way once there is room.
    @Test(.timeLimit(.minutes(2))) func aSplitDiskGrowsAfterAFailure() throws {
        for number in 1..<200 {
            let store = Self.split(64)
            let node = try Images.open(store, "disk.vmdk", readOnly: false)
            store.faults.arm(number, .fullFromThen)
            let failed = (try? node.resize(to: 200 * 512)) == nil
            store.faults.disarm()
            let size = try node.length()
            #expect(failed ? size == 88 * 512 : size == 200 * 512)
            try node.resize(to: 200 * 512)
            try node.write([UInt8(9)].span.bytes, at: 199 * 512)
            try node.close()
            let again = try Images.open(store, "disk.vmdk")
            #expect(try again.length() == 200 * 512)
            #expect(try again.readBytes(at: 199 * 512, count: 1) == [9], "\(number)")
            try again.close()
            if !failed { return }
        }
        Issue.record("growing never works")
    }

    /// No files are made where more would be needed than a disk may have; an empty first part says nothing.
    @Test(arguments: [0, 1]) func partsOfNoSizeAreNotCopied(_ first: Int) throws {
        let store = Self.split(first)
        let node = try Images.open(store, "disk.vmdk", readOnly: false)
        if first == 0 {
            try node.resize(to: 5000 * 512)
        } else {
            let error = #expect(throws: BlockError.self) { try node.resize(to: 5000 * 512) }
            #expect(error?.kind == .limit)
        }
        try node.close()
        #expect(store.files.count == 3)
    }
}
