import BlockTestSupport
import Foundation
import Testing

/// VMDK images at the shell: parents, reserved space, hostile tables.
@Suite struct VmdkCommandTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private func ok(_ line: String) throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == 0, "\(line): \(outcome.text)")
    }

    private func line(_ key: String, of name: String) throws -> String {
        try fixture.shell("grep -a '^\(key)=' \(name)").output.trimmingCharacters(in: .newlines)
    }

    // MARK: Parents

    /// Also where the parent is not to be looked at, the image notes which contents it must have.
    @Test func anOverlayMadeUnseenKnowsItsParent() throws {
        try ok("platter create -q -f vmdk base.vmdk 1M")
        try ok("platter create -q -u -f vmdk -b base.vmdk -F vmdk o.vmdk 1M")
        let cid = try line("CID", of: "base.vmdk")
        #expect(try line("parentCID", of: "o.vmdk") == "parent" + cid && !cid.hasSuffix("00000000"))
        let refused = try fixture.platter(
            "create", "-u", "-f", "vmdk", "-b", "gone", "-F", "vmdk", "p.vmdk", "1M")
        #expect(refused.status == 1 && refused.error.contains("'gone'"), "\(refused.text)")
        #expect(!fixture.exists("p.vmdk"))
    }

    /// A parent that is to come has the contents that it had under its old name.
    @Test func anotherNameOfTheParentKeepsItsIdentity() throws {
        try ok(
            "platter create -q -f vmdk base.vmdk 1M && platter create -q -f vmdk -b base.vmdk -F vmdk o.vmdk")
        let parent = try line("parentCID", of: "o.vmdk")
        try ok("platter rebase -u -b later.vmdk -F vmdk o.vmdk")
        #expect(try line("parentCID", of: "o.vmdk") == parent)
        try ok("mv base.vmdk later.vmdk && platter io -r -c 'read -P 0 0 1M' o.vmdk")
        // Without a parent before, nobody knows what the new one has.
        try ok("platter create -q -f vmdk alone.vmdk 1M")
        #expect(try fixture.platter("rebase", "-u", "-b", "gone", "-F", "vmdk", "alone.vmdk").status == 1)
        #expect(try line("parentCID", of: "alone.vmdk") == "parentCID=ffffffff")
    }

    // MARK: Parts

    /// More files than a process may usually have open.
    @Test func aDiskOfManyPartsIsOpened() throws {
        try ok(
            """
            ulimit -Sn 256
            platter create -q -f vmdk -o subformat=twoGbMaxExtentFlat s.vmdk 800G
            platter io -c 'write -P 5 700G 64k' -c 'read -P 5 700G 64k' s.vmdk | grep -c 65536/65536
            test $(ls s-f*.vmdk | wc -l) -eq 400
            """)
        let refused = try fixture.platter(
            "create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", "t", "9T")
        #expect(refused.status == 1 && refused.error.contains("4096 parts"), "\(refused.text)")
    }

    // MARK: Space

    struct Reserving: Sendable {
        var options: String
        var file = "a"
        var mebibytes = 0
        var isRefused = false
    }

    /// Where a format leaves it to the file how space is reserved, files with all of the data reserve it.
    @Test(arguments: [
        Reserving(
            options: "-f vmdk -o subformat=monolithicFlat,preallocation=full", file: "a-flat", mebibytes: 8),
        Reserving(
            options: "-f vmdk -o subformat=twoGbMaxExtentFlat,preallocation=falloc", file: "a-f001",
            mebibytes: 8),
        Reserving(options: "-f vdi -o static=on,preallocation=falloc", mebibytes: 8),
        Reserving(options: "-f raw -o preallocation=full", mebibytes: 8),
        Reserving(options: "-f vpc -o subformat=fixed,force_size=on,preallocation=full", mebibytes: 8),
        Reserving(options: "-f vhdx -o subformat=fixed,preallocation=falloc", mebibytes: 8),
        Reserving(options: "-f vmdk -o preallocation=metadata", isRefused: true),
        Reserving(options: "-f vdi -o preallocation=metadata", isRefused: true),
        Reserving(options: "-f vpc -o preallocation=full", isRefused: true),
        Reserving(options: "-f qed -o preallocation=falloc", isRefused: true),
        Reserving(options: "-f vmdk -o subformat=monolithicFlat,preallocation=metadata", isRefused: true),
        Reserving(options: "-f vmdk -o subformat=monolithicFlat,preallocation=off", file: "a-flat"),
    ])
    func spaceIsReservedOrRefused(_ example: Reserving) throws {
        let outcome = try fixture.shell("platter create -q \(example.options) a 8M", linked: true)
        guard !example.isRefused else {
            #expect(outcome.status == 1 && outcome.error.contains("preallocation"), "\(outcome.text)")
            return
        }
        #expect(outcome.status == 0, "\(outcome.text)")
        let blocks = try fixture.shell("stat -c %b \(example.file)").output
        let bytes = (Int(blocks.trimmingCharacters(in: .newlines)) ?? -1) * 512
        let wanted = example.mebibytes << 20
        #expect(wanted == 0 ? (0..<1 << 20).contains(bytes) : bytes >= wanted, "\(bytes)")
        try ok("platter check \(example.options.contains("vmdk") ? "-f vmdk" : "") a; test $? -ne 1")
    }

    // MARK: The same each time

    @Test(arguments: ["vdi", "vdi -o static=on", "vpc", "vpc -o subformat=fixed"])
    func aStatedUUIDMakesImagesTheSame(_ format: String) throws {
        let uuid = "-o uuid=12345678-1234-1234-1234-123456789abc"
        for name in ["a", "b"] {
            try ok("mkdir \(name); platter create -q -f \(format) \(uuid) \(name)/i 5M")
        }
        // The only time that is stored: that of VHD's footer, which ends the file.
        if format.hasPrefix("vpc") { try ok("test $(tail -c 512 a/i | od -An -tx4 -j24 -N4) = 00000000") }
        try ok("cmp a/i b/i; test $(platter info a/i | grep -c 12345678-1234-1234-1234-123456789abc) -ge 1")
        let refused = try fixture.shell("platter create -f \(format) -o uuid=x c 5M", linked: true)
        #expect(refused.status == 1 && !fixture.exists("c"))
    }

    @Test func aDateThatIsNoneIsToldOf() throws {
        let outcome = try fixture.shell("SOURCE_DATE_EPOCH=abc platter create -q -f vdi a 1M", linked: true)
        #expect(outcome.status == 0 && outcome.error.contains("SOURCE_DATE_EPOCH='abc'"), "\(outcome.text)")
    }

    // MARK: Hostile tables

    /// Half a million tables in holes of 2 TiB: a few MiB on the disk.
    @Test(.timeLimit(.minutes(2))) func tablesInHolesAreNotRead() throws {
        let tables = 1 << 19
        try ok("platter create -q -f vmdk t.vmdk 1M")
        var head = Array(try fixture.read("t.vmdk").prefix(512))
        func put(_ value: Int, _ count: Int, _ offset: Int) {
            for index in 0..<count { head[offset + index] = UInt8(truncatingIfNeeded: value >> (index * 8)) }
        }
        put(tables << 16, 8, 12)
        for (value, offset) in [(64, 48), (64, 56), (65536, 64), (0, 28), (0, 36)] { put(value, 8, offset) }
        // No descriptor inside: one beside it names the extent. No redundant tables.
        head[8] &= ~2
        var file = head + [UInt8](repeating: 0, count: 63 * 512)
        for table in 0..<tables {
            let sector = 65536 + table * 8000
            for shift in stride(from: 0, to: 32, by: 8) {
                file.append(UInt8(truncatingIfNeeded: sector >> shift))
            }
        }
        try fixture.write("h.vmdk", file)
        try fixture.write(
            "d.vmdk",
            Array(
                """
                # Disk DescriptorFile
                version=1
                CID=12345678
                parentCID=ffffffff
                createType="twoGbMaxExtentSparse"
                RW \(tables << 16) SPARSE "h.vmdk"

                """.utf8))
        try ok("truncate -s $(((4294967295) * 512)) h.vmdk")
        let outcome = try MeasuredRunner().platter(["check", "d.vmdk"], in: fixture.folder, seconds: 40)
        #expect(!outcome.isLate && [2, 3].contains(outcome.status), "\(outcome.error)")
        #expect(outcome.peakKiB < 100 << 10)
    }
}
