import BlockTestSupport
import Foundation
import Testing

/// Small files that state much: the same table again and again, or tables of which they have nothing. Each
/// command ends in seconds, in less than 100 MB.
@Suite struct RepeatedTableTests {
    private let fixture: CommandFixture
    private let runner: MeasuredRunner

    init() throws {
        fixture = try CommandFixture()
        runner = try MeasuredRunner()
    }

    @discardableResult
    private func platter(_ line: String, _ statuses: Set<Int32>) throws -> MeasuredOutcome {
        // A non-breaking space stands inside an argument.
        let arguments = line.split(separator: " ").map {
            $0.replacingOccurrences(of: "\u{a0}", with: " ")
        }
        let outcome = try runner.platter(arguments, in: fixture.folder, seconds: 30)
        let told = "\(line): status \(outcome.status) \(outcome.error.prefix(300))"
        #expect(!outcome.isLate && outcome.status >= 0, "\(told)")
        #expect(statuses.contains(outcome.status), "\(told)")
        #expect(outcome.peakKiB < 100 << 10, "\(outcome.peakKiB) KiB: \(told)")
        return outcome
    }

    private static func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value) { [UInt8]($0) }
    }

    // MARK: Snapshots

    /// Where the L1 tables of snapshots are.
    enum Place: CaseIterable {
        case behindEnd
        case onePlace
        /// Each begins a cluster behind the one before.
        case overlapping
    }

    /// Snapshots whose L1 tables are stated to be large, in clusters of 512 bytes.
    private static func snapshots(_ count: Int, _ place: Place) -> Qcow2Bytes {
        var image = Qcow2Bytes(clusterBits: 9)
        let entries = place == .behindEnd ? 4 << 20 : 1 << 16
        var table: [UInt8] = []
        for number in 0..<count {
            let offset = (place == .overlapping ? 4096 + number : 4096) << 9
            table += bytes(UInt64(offset).bigEndian) + bytes(UInt32(entries).bigEndian)
            table += [0, 1, 0, 1] + [UInt8](repeating: 0, count: 20)
            table += bytes(UInt32(16).bigEndian) + bytes(UInt64(0)) + bytes(UInt64(8192).bigEndian)
            table += Array("1a".utf8) + [UInt8](repeating: 0, count: 6)
        }
        image.write(table, at: 8 << 9)
        if place != .behindEnd { image.resize(to: (4096 + count) << 9 + entries * 8) }
        image.put32(UInt32(count), at: Qcow2Bytes.Field.snapshotCount)
        image.put64(8 << 9, at: Qcow2Bytes.Field.snapshotsOffset)
        return image
    }

    @Test(.timeLimit(.minutes(3)), arguments: Place.allCases) func manySnapshots(_ place: Place) throws {
        try Self.snapshots(2000, place).store(at: fixture.path("disk.qcow2"))
        for line in ["info", "snapshot -l", "map", "measure -O qcow2"] {
            try platter("\(line) disk.qcow2", [0])
        }
        try platter("check disk.qcow2", [1, 2])
        for line in [
            "snapshot -c y copy", "snapshot -d a copy", "snapshot -a a copy", "resize copy +64k",
            "bitmap --add copy b", "amend -o refcount_bits=64 copy", "io -c write\u{a0}0\u{a0}64k copy",
            "convert -l a -O raw copy new.raw", "rebase -u copy", "check -r leaks copy", "check -r all copy",
        ] {
            try Self.snapshots(2000, place).store(at: fixture.path("copy"))
            try platter(line, [0, 1, 2, 3])
        }
    }

    /// As many as there may be, each with its L1 table in the same place.
    @Test(.timeLimit(.minutes(3))) func allSnapshots() throws {
        try Self.snapshots(65536, .behindEnd).store(at: fixture.path("disk.qcow2"))
        for line in ["snapshot -c y disk.qcow2", "resize disk.qcow2 +64k", "bitmap --add disk.qcow2 b"] {
            let told = try platter(line, [1])
            #expect(told.error.contains("beyond the end of the file"), "\(told.error)")
        }
        try platter("check disk.qcow2", [2])
    }

    // MARK: One lower table

    /// 2^20 L1 entries, or as many as a format has, that refer to one table whose entries alternate.
    private static let images: [(format: String, bytes: @Sendable () -> SparseBytes)] = [
        ("qcow2", qcow2), ("qed", qed), ("qcow", qcow), ("vmdk", vmdk),
    ]

    private static func repeated(_ entry: [UInt8], _ count: Int) -> [UInt8] {
        [UInt8]((0..<count).lazy.map { _ in entry }.joined())
    }

    @Sendable private static func qcow2() -> SparseBytes {
        var image = Qcow2Bytes(virtualSize: 1 << 49)
        let l1 = image.addCluster()
        for _ in 1..<128 { _ = image.addCluster() }
        image.write(repeated(bytes((UInt64(image.l2) | Qcow2Bytes.copied).bigEndian), 1 << 20), at: l1)
        image.put64(UInt64(l1), at: Qcow2Bytes.Field.l1Offset)
        for cluster in 0..<8192 { image.setL2(cluster, UInt64(cluster % 2)) }
        return image.bytes
    }

    @Sendable private static func qed() -> SparseBytes {
        var file = SparseBytes()
        file.write(
            Array("QED\0".utf8) + bytes(UInt32(65536)) + bytes(UInt32(16)) + bytes(UInt32(1))
                + [UInt8](repeating: 0, count: 24) + bytes(UInt64(65536)) + bytes(UInt64(1 << 50)), at: 0)
        file.write(repeated(bytes(UInt64(17 << 16)), 1 << 17), at: 1 << 16)
        file.write(repeated(bytes(UInt64(0)) + bytes(UInt64(1)), 1 << 16), at: 17 << 16)
        return file
    }

    @Sendable private static func qcow() -> SparseBytes {
        var file = SparseBytes()
        file.write(
            bytes(UInt32(0x5146_49fb).bigEndian) + bytes(UInt32(1).bigEndian)
                + [UInt8](repeating: 0, count: 16) + bytes(UInt64(1 << 45).bigEndian) + [16, 13, 0, 0]
                + bytes(UInt32(0)) + bytes(UInt64(512).bigEndian), at: 0)
        file.write(repeated(bytes(UInt64(1 << 20).bigEndian), 1 << 16), at: 512)
        file.write(repeated(bytes(UInt64(0)) + bytes(UInt64(2 << 20).bigEndian), 4096), at: 1 << 20)
        file.resize(to: 2 << 20 + 65536)
        return file
    }

    @Sendable private static func vmdk() -> SparseBytes {
        var file = SparseBytes()
        let tables = 1 << 17
        let descriptor = """
            # Disk DescriptorFile
            version=1
            CID=fffffffe
            parentCID=ffffffff
            createType="monolithicSparse"
            RW \(tables * 512 * 8) SPARSE "disk"

            """
        file.write(
            Array("KDMV".utf8) + bytes(UInt32(1)) + bytes(UInt32(1)) + bytes(UInt64(tables * 512 * 8))
                + bytes(UInt64(8)) + bytes(UInt64(1)) + bytes(UInt64(4)) + bytes(UInt32(512))
                + bytes(UInt64(0)) + bytes(UInt64(64)) + bytes(UInt64(2048)) + [0]
                + Array("\n \r\n".utf8), at: 0)
        file.write(Array(descriptor.utf8), at: 512)
        file.write(repeated(bytes(UInt32(8)), tables), at: 64 * 512)
        file.write(repeated(bytes(UInt32(0)) + bytes(UInt32(2048)), 256), at: 8 * 512)
        file.resize(to: 2056 * 512)
        return file
    }

    @Test(.timeLimit(.minutes(3)), arguments: 0..<4) func oneTable(_ number: Int) throws {
        let (format, bytes) = Self.images[number]
        try bytes().store(at: fixture.path("disk"))
        for line in [
            "map -f \(format) disk", "map -f \(format) --output=json disk",
            "measure -f \(format) -O raw disk",
            "convert -f \(format) -O raw disk new.raw", "rebase -u -f \(format) disk",
        ] {
            let told = try platter(line, [1])
            let isExpected = told.error.contains("used again") || line.hasPrefix("rebase")
            #expect(isExpected, "\(line): \(told.error)")
        }
        try platter("compare -f \(format) -F \(format) disk disk", [2])
        try platter("info -f \(format) disk", [0])
        try platter("check -f \(format) disk", [1, 2, 3, 63])
    }

    // MARK: Bitmaps

    /// Two bitmaps that state 512 MiB of bits each, in a file of 640 KiB.
    @Test(.timeLimit(.minutes(3))) func hugeBitmaps() throws {
        for line in [
            "bitmap --add copy new", "bitmap --add copy new -g 512", "bitmap --clear copy one",
            "bitmap --disable copy one", "bitmap --merge one copy two", "bitmap --remove copy one",
            "resize copy +64M", "amend -o lazy_refcounts=on copy", "io -c write\u{a0}0\u{a0}64k copy",
            "convert --bitmaps -O qcow2 copy new.qcow2", "measure -O qcow2 copy", "check -r all copy",
        ] {
            try HostileCase.hugeBitmap.image.store(at: fixture.path("copy"))
            try platter(line, [0, 1])
            #expect(try allocated("copy") < 4 << 20, "\(line)")
            try platter("info copy", [0, 1])
        }
    }

    /// What the file system has given a file, in bytes.
    private func allocated(_ name: String) throws -> Int {
        let values = try fixture.folder.appending(path: name).resourceValues(
            forKeys: [.totalFileAllocatedSizeKey])
        return values.totalFileAllocatedSize ?? 0
    }
}
