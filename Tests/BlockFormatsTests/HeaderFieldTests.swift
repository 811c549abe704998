import BlockCore
import Foundation
import Testing

@testable import BlockFormats

/// Fields of headers are stated once: for reading, for writing and for the format's page.
@Suite struct HeaderFieldTests {
    @Test func pageHasTheFields() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let page = try String(contentsOf: root.appending(path: "docs/formats/qcow2.md"), encoding: .utf8)
        let table = Qcow2Header.allFields.headerTable()
        #expect(page.contains(table), "docs/formats/qcow2.md lacks this:\n\(table)")
    }

    /// Between the first field and the last there is no gap, and nothing is stated twice.
    @Test func fieldsFollowEachOther() {
        var end = 0
        for field in Qcow2Header.allFields.sorted(by: { $0.offset < $1.offset }) {
            #expect(field.offset == end, "\(field.name)")
            end = field.offset + field.width
        }
        #expect(end == Qcow2Header.version3MinimumLength + 1)
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

    @Test func numbersThatAreTooLarge() throws {
        var header = Qcow2Header()
        header.l1Offset = -1
        let bytes = header.fixedBytes()
        let error = #expect(throws: BlockError.self) { try Qcow2Header.parse(bytes.span.bytes) }
        #expect(error?.kind == .corrupt && error?.message == "L1 table offset is too large")
    }
}
