import BlockCore
import Foundation
import Testing

@testable import BlockFormats

/// Fields of headers are stated once: for reading, for writing and for the format's page.
@Suite struct HeaderFieldTests {
    @Test func pagesHaveTheFields() throws {
        try checkPage("qcow2", Qcow2Header.allFields)
        try checkPage("qed", QedHeader.allFields)
        try checkPage("qcow", QcowHeader.allFields)
        try checkPage("vdi", VdiHeader.allFields)
        try checkPage("parallels", ParallelsHeader.allFields)
        try checkPage("luks", LuksHeader.allFields)
        try checkPage("luks", LuksSlot.allFields)
        try checkPage("bochs", BochsHeader.allFields)
        try checkPage("asif", AsifHeader.allFields)
    }

    @Test func vhdPageHasTheFields() throws {
        try checkPage("vpc", VhdFooter.allFields)
        try checkPage("vpc", VhdHeader.allFields)
        try checkPage("vpc", VhdHeader.Locator.allFields)
    }

    @Test func vhdxPageHasTheFields() throws {
        try checkPage("vhdx", VhdxHeader.allFields)
        try checkPage("vhdx", VhdxRegions.allFields)
        try checkPage("vhdx", VhdxRegions.Region.allFields)
        try checkPage("vhdx", VhdxMetadataTable.allFields)
        try checkPage("vhdx", VhdxMetadataEntry.allFields)
        try checkPage("vhdx", VhdxFileParameters.allFields)
        try checkPage("vhdx", VhdxParentLocator.allFields)
        try checkPage("vhdx", VhdxParentLocator.Entry.allFields)
        try checkPage("vhdx", VhdxLogEntry.allFields)
        try checkPage("vhdx", VhdxLogDescriptor.allFields)
        try checkPage("vhdx", VhdxLogData.allFields)
    }

    @Test func vmdkPageHasTheFields() throws {
        try checkPage("vmdk", VmdkSparseHeader.allFields)
        try checkPage("vmdk", VmdkSparseHeader.cowFields)
        try checkPage("vmdk", Vmdk.Marker.allFields)
        try checkPage("vmdk", VmdkSESparseHeader.allFields)
    }

    @Test func dmgPageHasTheFields() throws {
        try checkPage("dmg", DmgTrailer.allFields)
        try checkPage("dmg", DmgTable.allFields)
        try checkPage("dmg", DmgChunk.allFields)
        try checkPage("dmg", DmgChecksum.allFields)
    }

    private func checkPage<Header: FieldedHeader>(_ name: String, _ fields: [HeaderField<Header>]) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let page = try String(contentsOf: root.appending(path: "docs/formats/\(name).md"), encoding: .utf8)
        let table = fields.headerTable()
        #expect(page.contains(table), "docs/formats/\(name).md lacks this:\n\(table)")
    }

    /// Between the first field and the last there is no gap, and nothing is stated twice.
    @Test func fieldsFollowEachOther() {
        checkOrder(Qcow2Header.allFields, bytes: Qcow2Header.version3MinimumLength + 1)
        checkOrder(QedHeader.allFields, bytes: Qed.headerBytes)
        checkOrder(QcowHeader.allFields, bytes: Qcow.headerBytes)
        checkOrder(VdiHeader.allFields, bytes: 0x1C8)
        checkOrder(ParallelsHeader.allFields, bytes: Parallels.headerBytes)
        checkOrder(VhdFooter.allFields, bytes: 0x55)
        checkOrder(VhdHeader.allFields, bytes: 0x300)
        checkOrder(VhdHeader.Locator.allFields, bytes: 24)
        checkOrder(VhdxHeader.allFields, bytes: 0x50)
        checkOrder(VhdxRegions.allFields, bytes: 16)
        checkOrder(VhdxRegions.Region.allFields, bytes: 32)
        checkOrder(VhdxMetadataTable.allFields, bytes: 32)
        checkOrder(VhdxMetadataEntry.allFields, bytes: 32)
        checkOrder(VhdxFileParameters.allFields, bytes: 8)
        checkOrder(VhdxParentLocator.allFields, bytes: 20)
        checkOrder(VhdxParentLocator.Entry.allFields, bytes: 12)
        checkOrder(VhdxLogEntry.allFields, bytes: 64)
        checkOrder(VhdxLogDescriptor.allFields, bytes: 32)
        checkOrder(VhdxLogData.allFields, bytes: 4096)
        checkOrder(VmdkSparseHeader.allFields, bytes: 79)
        checkOrder(VmdkSparseHeader.cowFields, bytes: 32)
        checkOrder(Vmdk.Marker.allFields, bytes: 16)
        checkOrder(VmdkSESparseHeader.allFields, bytes: 208)
        checkOrder(LuksHeader.allFields, bytes: Luks.headerBytes)
        checkOrder(LuksSlot.allFields, bytes: 48)
        checkOrder(DmgTrailer.allFields, bytes: 0x1F4)
        checkOrder(DmgTable.allFields, bytes: Dmg.tableHeaderBytes)
        checkOrder(DmgChunk.allFields, bytes: Dmg.entryBytes)
        checkOrder(DmgChecksum.allFields, bytes: 136)
        checkOrder(BochsHeader.allFields, bytes: 0x60)
        checkOrder(AsifHeader.allFields, bytes: Asif.headerBytes)
    }

    private func checkOrder<Header: FieldedHeader>(_ fields: [HeaderField<Header>], bytes: Int) {
        var end = 0
        for field in fields.sorted(by: { $0.offset < $1.offset }) {
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

    @Test func vhdLocatorsReadAsWritten() throws {
        var header = VhdHeader(offset: 512, tableOffset: 0x1_2200, blocks: 0x1234, blockBytes: 0x20_0000)
        let locators = [
            VhdHeader.Locator(platform: "W2ru", offset: 0x1122_3344_5566, length: 0x123),
            VhdHeader.Locator(platform: "MacX", offset: 0x2000, length: 0x200),
        ]
        header.setParent(VhdParent(uuid: VhdParent.unknown, time: 0, path: "a"), locators)
        #expect(header.locators == locators)
        #expect(header.bytes[0x240..<0x248].elementsEqual(Array("W2ru".utf8) + [0, 0, 2, 0]))
        #expect(
            header.bytes[0x248..<0x258].elementsEqual(
                [0, 0, 1, 0x23, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66]))
        #expect(header.bytes[0x258..<0x25C].elementsEqual("MacX".utf8))
    }

    @Test func vhdxHeaderReadsAsWritten() throws {
        func guid(_ first: UInt8) -> ImageUUID { ImageUUID(bytes: (0..<16).map { first + $0 }) }
        let header = VhdxHeader(
            sequence: 0x0102_0304_0506_0708, fileWriteGUID: guid(0x10), dataWriteGUID: guid(0x30),
            logGUID: guid(0x50), logVersion: 0x1234, version: 0x5678, logBytes: 0x1122_3344,
            logOffset: 0x5566_7788)
        let bytes = header.serialised()
        #expect(bytes.count == 4096)
        #expect(try VhdxHeader.parse(bytes.span.bytes) == header)
        #expect(bytes.starts(with: "head".utf8))
        #expect(bytes[8..<20].elementsEqual([8, 7, 6, 5, 4, 3, 2, 1, 0x13, 0x12, 0x11, 0x10]))
        #expect(bytes[0x24..<0x2C].elementsEqual([0x35, 0x34, 0x37, 0x36, 0x38, 0x39, 0x3A, 0x3B]))
        #expect(bytes[0x40..<0x48].elementsEqual([0x34, 0x12, 0x78, 0x56, 0x44, 0x33, 0x22, 0x11]))
        #expect(bytes[0x48..<0x50].elementsEqual([0x88, 0x77, 0x66, 0x55, 0, 0, 0, 0]))
        #expect(bytes[0x50...].allSatisfy { $0 == 0 })
        for index in [0, 5, 0x4F, 4095] {
            var damaged = bytes
            damaged[index] ^= 1
            #expect(try VhdxHeader.parse(damaged.span.bytes) == nil, "\(index)")
        }
    }

    @Test func vhdxRegionsReadAsWritten() throws {
        let regions = VhdxRegions(all: [
            VhdxRegions.Region(guid: Vhdx.Region.bat, range: 0x30_0000..<0x50_0000, isRequired: true),
            VhdxRegions.Region(guid: Vhdx.Region.metadata, range: 0x20_0000..<0x30_0000, isRequired: false),
        ])
        let bytes = regions.serialised()
        #expect(try VhdxRegions.parse(bytes.span.bytes) == regions)
        #expect(bytes.starts(with: "regi".utf8) && bytes[8..<16].elementsEqual([2, 0, 0, 0, 0, 0, 0, 0]))
        #expect(
            bytes[0x20..<0x30].elementsEqual([0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 1, 0, 0, 0]))
        #expect(bytes[0x30..<0x34].elementsEqual([6, 0xA2, 0x7C, 0x8B]))
    }

    @Test func vmdkReadsAsWritten() throws {
        var header = VmdkSparseHeader(
            version: 3, flags: 0x3_0003, capacitySectors: 0x12_3456, grainSectors: 64,
            descriptorOffset: 0x200, descriptorBytes: 0x2800, tableEntries: 256,
            redundantDirectoryOffset: 0x2A00, directoryOffset: 0x4_4400, overheadBytes: 0x8_8000,
            bytes: [UInt8](repeating: 0x55, count: 512))
        header.bytes = header.serialised()
        #expect(try VmdkSparseHeader.parse(header.bytes) == header)
        #expect(header.bytes.starts(with: Array("KDMV".utf8) + [3, 0, 0, 0, 3, 0, 3, 0, 0x56, 0x34, 0x12]))
        #expect(header.bytes[20..<29].elementsEqual([64, 0, 0, 0, 0, 0, 0, 0, 1]))
        #expect(header.bytes[36..<50].elementsEqual([0x14, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x15, 0]))
        #expect(header.bytes[56..<66].elementsEqual([0x22, 2, 0, 0, 0, 0, 0, 0, 0x40, 4]))
        #expect(header.bytes[72..<79].elementsEqual([0x55, 10, 32, 13, 10, 1, 0]))
        #expect(header.bytes[79...].allSatisfy { $0 == 0x55 })
    }

    @Test func cowDiskReadsAsWritten() throws {
        var bytes = [UInt8](repeating: 0x55, count: 2048)
        bytes.replaceSubrange(
            0..<28,
            with: Array("COWD".utf8) + [1, 0, 0, 0, 3, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0]
                + [4, 0, 0, 0, 8, 0, 0, 0])
        var header = try VmdkSparseHeader.parse(bytes)
        #expect(header.kind == .cow && header.capacitySectors == 0x8000 && header.grainSectors == 1)
        #expect(header.directoryOffset == 4 * 512 && header.flags == 3)
        #expect(header.serialised() == bytes)
        header.flags = 0
        header.capacitySectors = 0x9000
        bytes.replaceSubrange(12..<16, with: [0, 0x90, 0, 0])
        bytes.replaceSubrange(24..<28, with: [9, 0, 0, 0])
        #expect(header.serialised() == bytes)
    }

    @Test func luksReadsAsWritten() throws {
        let suite = CipherSuite(algorithm: .aes256, mode: .xts, ivGenerator: .plain64)
        var header = LuksHeader(suite: suite, hash: .sha256, vectorHash: nil, payloadOffset: 0x1F_9000)
        header.digest = (1...20).map { UInt8($0) }
        header.digestSalt = (101...132).map { UInt8($0) }
        (header.digestIterations, header.uuid) = (0x1234, "u-u")
        for index in 0..<8 { header.slots[index].materialOffset = 4096 + index * 0x3F000 }
        header.slots[1].isActive = true
        header.slots[1].iterations = 0x5678
        header.slots[1].salt = (31...62).map { UInt8($0) }
        let bytes = header.bytes()
        #expect(bytes.count == 592)
        #expect(try LuksHeader.parse(bytes.span.bytes) == header)
        #expect(bytes[6..<12].elementsEqual([0, 1] + Array("aes".utf8) + [0]))
        #expect(bytes[40..<52].elementsEqual(Array("xts-plain64".utf8) + [0]))
        #expect(bytes[72..<79].elementsEqual(Array("sha256".utf8) + [0]))
        #expect(bytes[104..<113].elementsEqual([0, 0, 0x0F, 0xC8, 0, 0, 0, 64, 1]))
        #expect(bytes[131..<134].elementsEqual([20, 101, 102]))
        #expect(bytes[163..<172].elementsEqual([132, 0, 0, 0x12, 0x34] + Array("u-u".utf8) + [0]))
        #expect(bytes[208..<212].elementsEqual([0, 0, 0xDE, 0xAD]))
        #expect(bytes[256..<266].elementsEqual([0, 0xAC, 0x71, 0xF3, 0, 0, 0x56, 0x78, 31, 32]))
        #expect(bytes[295..<304].elementsEqual([62, 0, 0, 2, 0, 0, 0, 0x0F, 0xA0]))
    }

    @Test func numbersThatAreTooLarge() throws {
        var header = Qcow2Header()
        header.l1Offset = -1
        let bytes = header.fixedBytes()
        let error = #expect(throws: BlockError.self) { try Qcow2Header.parse(bytes.span.bytes) }
        #expect(error?.kind == .corrupt && error?.message == "L1 table offset is too large")
    }
}
