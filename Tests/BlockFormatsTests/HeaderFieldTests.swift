import BlockCore
import Foundation
import Testing

@testable import BlockFormats

/// Fields of headers are stated once: for reading, for writing and for the format's page.
@Suite struct HeaderFieldTests {
    @Test func pagesHaveTheFields() throws {
        try checkPage("qcow2", Qcow2Header.self)
        try checkPage("qed", QedHeader.self)
        try checkPage("qcow", QcowHeader.self)
        try checkPage("vdi", VdiHeader.self)
        try checkPage("parallels", ParallelsHeader.self)
        try checkPage("vpc", VhdFooter.self)
        try checkPage("vpc", VhdHeader.self)
    }

    private func checkPage<Header: FieldedHeader>(_ name: String, _: Header.Type) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let page = try String(contentsOf: root.appending(path: "docs/formats/\(name).md"), encoding: .utf8)
        let table = Header.allFields.headerTable()
        #expect(page.contains(table), "docs/formats/\(name).md lacks this:\n\(table)")
    }

    /// Between the first field and the last there is no gap, and nothing is stated twice.
    @Test func fieldsFollowEachOther() {
        checkOrder(Qcow2Header.self, bytes: Qcow2Header.version3MinimumLength + 1)
        checkOrder(QedHeader.self, bytes: Qed.headerBytes)
        checkOrder(QcowHeader.self, bytes: Qcow.headerBytes)
        checkOrder(VdiHeader.self, bytes: 0x1C8)
        checkOrder(ParallelsHeader.self, bytes: Parallels.headerBytes)
        checkOrder(VhdFooter.self, bytes: 0x55)
        checkOrder(VhdHeader.self, bytes: 0x300)
    }

    private func checkOrder<Header: FieldedHeader>(_: Header.Type, bytes: Int) {
        var end = 0
        for field in Header.allFields.sorted(by: { $0.offset < $1.offset }) {
            #expect(field.offset == end, "\(field.name)")
            end = field.offset + field.width
        }
        #expect(end == bytes)
    }

    /// Each field is read from where it is written.
    @Test(arguments: [2, 3]) func headersReadAsWritten(version: Int) throws {
        var header = Qcow2Header()
        header.version = version
        header.headerLength = version == 2 ? Qcow2Header.version2Length : Qcow2Header.knownLength
        header.clusterBits = 12
        header.virtualSize = 0x1234_5678_9a00
        header.cryptMethod = 2
        (header.l1Entries, header.l1Offset) = (0x1122_3344, 0x33_0000)
        (header.refcountTableClusters, header.refcountTableOffset) = (0x5566_7788, 0x11_0000)
        (header.snapshotCount, header.snapshotsOffset) = (0x99, 0x77_0000)
        if version == 3 {
            header.incompatible = [.dirty, .compressionType]
            (header.compatible, header.autoclear, header.refcountOrder) = (1, 2, 6)
            header.compressionType = .zstd
        }
        let bytes = header.fixedBytes()
        #expect(bytes.count == header.headerLength)
        #expect(try Qcow2Header.parse(bytes.span.bytes).fixedBytes() == bytes)
        #expect(bytes[24..<32].elementsEqual([0, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0]))
        #expect(bytes[56..<60].elementsEqual([0x55, 0x66, 0x77, 0x88]))
    }

    /// The bytes at fixed places show a wrong offset, width or byte order.
    @Test func qedReadsAsWritten() throws {
        let header = QedHeader(
            clusterBytes: 65536, tableClusters: 4, headerClusters: 1, features: 7,
            compatible: 0x0102_0304_0506_0708, autoclear: 0x1112_1314_1516_1718, l1Offset: 0x2_0000,
            virtualSize: 0x1234_5600, backingOffset: 0x40, backingBytes: 0x123)
        let bytes = header.serialised()
        #expect(bytes.count == Qed.headerBytes)
        #expect(try QedHeader.parse(bytes, fileLength: 1 << 20) == header)
        #expect(bytes.starts(with: [0x51, 0x45, 0x44, 0, 0, 0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 7]))
        #expect(
            bytes[48..<64].elementsEqual([0, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x23, 1, 0, 0]))
    }

    @Test func qcowReadsAsWritten() throws {
        let header = QcowHeader(
            backingOffset: 0x1230, backingBytes: 0x123, modificationTime: 0x5566_7788, storedSize: 0x12_3456,
            clusterBits: 12, tableBits: 9, isEncrypted: true, l1Offset: 0x30)
        let bytes = header.serialised()
        #expect(bytes.count == Qcow.headerBytes)
        #expect(try QcowHeader.parse(bytes, fileLength: 1 << 20) == header)
        #expect(
            bytes[8..<24].elementsEqual([0, 0, 0, 0, 0, 0, 0x12, 0x30, 0, 0, 1, 0x23, 0x55, 0x66, 0x77, 0x88])
        )
        #expect(bytes[24..<40].elementsEqual([0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 12, 9, 0, 0, 0, 0, 0, 1]))
    }

    @Test func vdiReadsAsWritten() throws {
        var bytes = (0..<Vdi.sectorBytes).map { UInt8(truncatingIfNeeded: $0) }
        bytes.replaceSubrange(0x40..<0x48, with: [0x7F, 0x10, 0xDA, 0xBE, 1, 0, 1, 0])
        var header = VdiHeader(
            bytes: bytes, type: .differencing, mapOffset: 0x200, dataOffset: 0x1_0200, virtualSize: 0x12_3400,
            blockBytes: 0x10_0000, blockExtraBytes: 0x345, blockCount: 0x123, allocatedCount: 0x102)
        header.bytes = header.serialised()
        #expect(try VdiHeader.parse(header.bytes) == header)
        #expect(header.bytes[0x154..<0x15C].elementsEqual([0, 2, 0, 0, 0, 2, 1, 0]))
        #expect(header.bytes[0x170..<0x17C].elementsEqual([0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]))
        #expect(header.bytes[0x17C..<0x188].elementsEqual([0x45, 3, 0, 0, 0x23, 1, 0, 0, 2, 1, 0, 0]))
        let changed = [0x4C..<0x50, 0x154..<0x15C, 0x170..<0x188]
        for index in bytes.indices where !changed.contains(where: { $0.contains(index) }) {
            #expect(header.bytes[index] == bytes[index], "\(index)")
        }
    }

    @Test func parallelsReadsAsWritten() throws {
        var header = ParallelsHeader(newOfSize: 0x1234_5600, clusterBytes: 0x10_0000)
        header.extensionSector = 0x1122_3344
        header.inUse = Parallels.Use.open
        header.bytes = header.serialised()
        #expect(header.bytes.count == Parallels.headerBytes)
        #expect(try ParallelsHeader.parse(header.bytes) == header)
        #expect(header.bytes[16..<24].elementsEqual([2, 0, 0, 0, 16, 0, 0, 0]))
        #expect(header.bytes[24..<36].elementsEqual([0x8D, 4, 0, 0, 0, 8, 0, 0, 0x24, 1, 0, 0]))
        #expect(header.bytes[36..<48].elementsEqual([0x2B, 0x1A, 9, 0, 0, 0, 0, 0, 0x59, 0x6E, 0x6F, 0x74]))
        #expect(header.bytes[56..<64].elementsEqual([0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]))
    }

    @Test func vhdReadsAsWritten() throws {
        let uuid = ImageUUID(bytes: (1...16).map { UInt8($0) })
        var footer = VhdFooter(type: .dynamic, headerOffset: 0x1234_5600, uuid: uuid, time: 0x0102_0304)
        footer.geometry = VhdGeometry(cylinders: 0x1122, heads: 0x0A, sectorsPerTrack: 0x11)
        let bytes = footer.sealed()
        let found = try #require(VhdFooter.find(bytes))
        #expect(found.isIntact && found.type == .dynamic && found.headerOffset == 0x1234_5600)
        #expect(found.uuid == uuid && found.time == 0x0102_0304 && found.geometry == footer.geometry)
        #expect(bytes[0x10..<0x1C].elementsEqual([0, 0, 0, 0, 0x12, 0x34, 0x56, 0, 1, 2, 3, 4]))
        #expect(bytes[0x38..<0x40].elementsEqual([0x11, 0x22, 0x0A, 0x11, 0, 0, 0, 3]))
        #expect(bytes[0x44..<0x54].elementsEqual(1...16))

        let header = VhdHeader(offset: 512, tableOffset: 0x1_2200, blocks: 0x1234, blockBytes: 0x20_0000)
        let sealed = header.sealed()
        let parsed = try VhdHeader.parse(sealed, at: 512)
        #expect(parsed.isIntact && parsed.tableOffset == 0x1_2200 && parsed.blocks == 0x1234)
        #expect(
            sealed[0x14..<0x24].elementsEqual([0, 1, 0x22, 0, 0, 1, 0, 0, 0, 0, 0x12, 0x34, 0, 0x20, 0, 0]))
    }

    @Test func numbersThatAreTooLarge() throws {
        var header = Qcow2Header()
        header.l1Offset = -1
        let bytes = header.fixedBytes()
        let error = #expect(throws: BlockError.self) { try Qcow2Header.parse(bytes.span.bytes) }
        #expect(error?.kind == .corrupt && error?.message == "L1 table offset is too large")
    }
}
