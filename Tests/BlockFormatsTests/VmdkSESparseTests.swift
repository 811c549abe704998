import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// vSphere's space-efficient sparse extents.
@Suite struct VmdkSESparseTests {
    /// One directory entry, one table: nothing, zeroes, unmapped, grain 1, grain 0.
    @Test func seSparseIsRead() throws {
        var file = SparseBytes()
        for (offset, value) in [
            (0, 0xCAFE_BABE), (8, 0x2_0000_0001), (16, 64), (24, 8), (32, 64), (80, 1), (88, 1), (128, 2),
            (136, 1), (144, 8), (152, 64), (192, 72), (200, 16), (512, 0xCAFE_CAFE),
            (1024, 0x1000_0000 << 32),
            (4104, 2 << 60), (4112, 1 << 60), (4120, 3 << 60 | 1 << 48), (4128, 3 << 60),
        ] {
            VmdkBytes.put(value, 8, offset, &file)
        }
        file.write([UInt8](repeating: 6, count: 4096), at: 72 * 512)
        file.write([UInt8](repeating: 7, count: 4096), at: 80 * 512)
        let descriptor = VmdkBytes.descriptor(["RW 64 SESPARSE \"s\""], createType: "seSparse")
        let store = TestStore(["disk": descriptor, "s": file])
        #expect(try VmdkImageTests.firstBytes(VmdkImageTests.open(store), 8) == [0, 0, 0, 7, 6, 0, 0, 0])
        #expect(throws: BlockError.self) { try VmdkImageTests.open(store, readOnly: false) }
        #expect(throws: BlockError.self) { try VmdkImageTests.open(store, "s") }
        #expect(try VmdkImageTests.check(store) == CheckResult())
        for (offset, value) in [(512, 0), (536, 1), (16, 1 << 40), (128, 1 << 40), (24, 16), (8, 1)] {
            var bad = file
            VmdkBytes.put(value, 8, offset, &bad)
            #expect(throws: BlockError.self, "\(offset)") {
                try VmdkImageTests.open(TestStore(["disk": descriptor, "s": bad]))
            }
        }
        VmdkBytes.put(3 << 60 | 9 << 48, 8, 4096, &file)
        let lost = try VmdkImageTests.check(TestStore(["disk": descriptor, "s": file]))
        #expect(lost.corruptions == 1, "\(lost)")
    }
}
