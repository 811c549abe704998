import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What is wrong with the headers of VHD, VDI and VMDK images, in QEMU's order and words.
@Suite struct HeaderMessageTests {
    /// Bytes that are changed, by their places in header or footer, and what is told.
    struct Damage: Sendable {
        var changes: [(Int, [UInt8])]
        var message: String

        init(_ message: String, _ changes: (Int, [UInt8])...) {
            self.changes = changes
            self.message = message
        }
    }

    private static func big(_ value: some FixedWidthInteger) -> [UInt8] { ImageBytes.big(value) }

    private static func little(_ value: some FixedWidthInteger) -> [UInt8] { ImageBytes.little(value) }

    private func message(_ format: String, _ file: SparseBytes) throws -> (text: String, hint: String?) {
        let store = TestStore(["disk": file])
        let registry = store.registry([VhdDriver.self, VdiDriver.self, VmdkDriver.self, RawDriver.self])
        let opener = ImageOpener(registry: registry)
        let error = try #require(throws: BlockError.self) { try opener.open("disk", format: format) }
        return (error.message, error.hint)
    }

    private func made(_ format: String) throws -> SparseBytes {
        let store = TestStore()
        let registry = store.registry([VhdDriver.self, VdiDriver.self, VmdkDriver.self, RawDriver.self])
        let opener = ImageOpener(registry: registry)
        var options = try opener.createOptions(format: format, filename: "disk")
        try options.set(.size, to: String(8 << 20))
        try opener.create("disk", format: format, options: options)
        return try #require(store["disk"])
    }

    // MARK: VHD

    /// Places in the header of a dynamic disk.
    static let vhd = [
        Damage("Invalid header magic", (0, [0])), Damage("Invalid block size 0", (32, big(UInt32(0)))),
        Damage("Invalid block size 3145728", (32, big(UInt32(3 << 20)))),
        Damage("Page table too small", (28, big(UInt32(1)))),
        Damage("Page table too small", (28, big(UInt32(0)))),
        Damage("Max Table Entries too large (-1)", (28, big(UInt32.max))),
        // Of two, the one that QEMU looks at first.
        Damage("Invalid header magic", (32, big(UInt32(0))), (0, [0])),
        Damage("Invalid block size 0", (28, big(UInt32.max)), (32, big(UInt32(0)))),
        Damage("Page table too small", (16, big(UInt64(1) << 40)), (28, big(UInt32(1)))),
    ]

    @Test(arguments: vhd.indices) func headersOfVhd(_ index: Int) throws {
        let store = TestStore(["disk": try made("vpc")])
        let image = VhdBytes(store)
        for (offset, bytes) in Self.vhd[index].changes { image.changeHeader(bytes, at: offset) }
        #expect(try message("vpc", image.bytes).text == Self.vhd[index].message)
    }

    @Test func footersOfVhd() throws {
        let whole = try made("vpc")
        var file = whole
        for place in [0, whole.count - 512] { file.write([9], at: place + 100) }
        #expect(try message("vpc", file).text == "Incorrect header checksum")
        for place in [0, whole.count - 512] { file.write([9], at: place) }
        #expect(try message("vpc", file).text == "invalid VPC image")
        #expect(try message("vpc", file).hint?.contains("no footer") == true)
        #expect(try message("vpc", SparseBytes()).text == "File too small for a VHD header")
        let image = VhdBytes(TestStore(["disk": whole]))
        image.changeFooters(Self.big(UInt64.max), at: 16)
        #expect(try message("vpc", image.bytes).text == "Error reading dynamic VHD header")
    }

    // MARK: VDI

    static let vdi = [
        Damage("Image not in VDI format (bad signature 00000001)", (0x40, little(UInt32(1)))),
        Damage("unsupported VDI image (version 2.1)", (0x44, little(UInt32(0x20001)))),
        Damage("unsupported VDI image (unaligned block map offset 0x1)", (0x154, little(UInt32(1)))),
        Damage("unsupported VDI image (unaligned data offset 0x401)", (0x158, little(UInt32(0x401)))),
        Damage("unsupported VDI image (block size 0 is not 1048576)", (0x178, little(UInt32(0)))),
        Damage("unsupported VDI image (block size 3145728 is not 1048576)", (0x178, little(UInt32(3 << 20)))),
        Damage(
            "unsupported VDI image (disk size 8389120, image bitmap has room for 8388608)",
            (0x170, little(UInt64(8 << 20 + 1)))),
        Damage(
            "unsupported VDI image (disk size 8388608, image bitmap has room for 1048576)",
            (0x180, little(UInt32(1)))),
        Damage(
            "Unsupported VDI image size (size is 0x1000000000000000, max supported is 0x1fffff8000000)",
            (0x170, little(UInt64(1) << 60)), (0x40, little(UInt32(1)))),
        Damage(
            "unsupported VDI image (too many blocks 4294967295, max is 16777216)",
            (0x180, little(UInt32.max))),
        Damage("unsupported VDI image (image type 9)", (0x4C, little(UInt32(9)))),
        Damage(
            "Image not in VDI format (bad signature 00000005)", (0x44, little(UInt32(5))),
            (0x40, little(UInt32(5)))),
        Damage(
            "unsupported VDI image (block size 0 is not 1048576)", (0x180, little(UInt32(1))),
            (0x178, little(UInt32(0))), (0x4C, little(UInt32(9)))),
    ]

    @Test(arguments: vdi.indices) func headersOfVdi(_ index: Int) throws {
        var file = try made("vdi")
        for (offset, bytes) in Self.vdi[index].changes { file.write(bytes, at: offset) }
        #expect(try message("vdi", file).text == Self.vdi[index].message)
    }

    // MARK: VMDK

    static let vmdk = [
        Damage("Unsupported VMDK version 9", (4, little(UInt32(9))), (44, little(UInt32(0)))),
        Damage("L2 table size too big", (44, little(UInt32(513)))),
        Damage("L2 table size too big", (64, little(UInt64(1) << 40)), (44, little(UInt32(1 << 20)))),
        Damage("L1 entry size is invalid", (44, little(UInt32(0)))),
        Damage("L1 entry size is invalid", (20, little(UInt64(0)))),
        Damage("Invalid footer", (56, little(UInt64.max))),
        Damage("invalid VMDK image descriptor", (0, [0])),
    ]

    @Test(arguments: vmdk.indices) func headersOfVmdk(_ index: Int) throws {
        var file = try made("vmdk")
        for (offset, bytes) in Self.vmdk[index].changes { file.write(bytes, at: offset) }
        #expect(try message("vmdk", file).text == Self.vmdk[index].message)
        #expect(try message("vmdk", SparseBytes()).text == "File is too small, not a valid image")
    }

    @Test(arguments: [
        "RW 8 FLAT \"a\" -1", "RW x FLAT \"a\" 0", "RW -5 FLAT \"a\" 0", "RW 8", "RW 8 FLAT a 0",
        "RW 8 FOO \"a\" 0", "RW 8 VMFSRDM \"a\" 0",
    ]) func extentLines(_ line: String) throws {
        #expect(try message("vmdk", VmdkBytes.descriptor([line])).text == "Invalid extent line: \(line)")
    }
}
