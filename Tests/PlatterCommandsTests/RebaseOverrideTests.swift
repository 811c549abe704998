import BlockTestSupport
import Testing

/// `rebase` to a name that gives an image of the old chain another backing file than it states.
@Suite struct RebaseOverrideTests {
    @Test func contentsStayWhenTheBackingFileIsReplaced() throws {
        let fixture = try CommandFixture()
        let old = [UInt8](repeating: 65, count: 1 << 20)
        try fixture.write("a.raw", old)
        try fixture.write("b.raw", [UInt8](repeating: 66, count: 1 << 20))
        let outcome = try fixture.shell(
            """
            platter create -q -f qcow2 -b a.raw -B raw middle.qcow2
            platter create -q -f qcow2 -b middle.qcow2 -B qcow2 top.qcow2
            platter rebase -B qcow2 -b 'json:{"driver":"qcow2","file.filename":"middle.qcow2",\
            "backing.driver":"raw","backing.file.filename":"b.raw"}' top.qcow2
            platter convert -O raw top.qcow2 top.raw
            """, linked: true)
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(try fixture.read("top.raw") == old)
    }

    private static let other =
        #"{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"},"#
        + #""data-file":{"driver":"file","filename":"B.raw"}}"#

    @Test(
        "an image with another data file is another layer, also inside another node",
        arguments: [other, #"{"driver":"raw","file":\#(other)}"#], [false, true])
    func contentsStayWhenTheDataFileIsReplaced(name: String, isDeep: Bool) throws {
        let fixture = try CommandFixture()
        let old = [UInt8](repeating: 1, count: 1 << 20)
        try fixture.write("b", [UInt8](repeating: 2, count: 1 << 20))
        let driver = name.contains(#""driver":"raw""#) ? "raw" : "qcow2"
        let outcome = try fixture.shell(
            """
            platter create -q -f qcow2 -o data_file=A.raw base.qcow2 1M && mv b B.raw
            qemu-io -c 'write -q -P 1 0 1M' base.qcow2
            platter create -q -f qcow2 -b base.qcow2 -B qcow2 over.qcow2
            platter create -q -f qcow2 -b \(isDeep ? "over" : "base").qcow2 -B qcow2 top.qcow2
            qemu-img rebase -F \(driver) -b 'json:\(name)' top.qcow2
            platter convert -O raw top.qcow2 top.raw
            """, linked: true)
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(try fixture.read("top.raw") == old)
    }

    @Test("an image cannot lie over its own data file")
    func ownDataFile() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "data_file=A.raw", "top.qcow2", "1M")
        let outcome = try fixture.platter("rebase", "-B", "raw", "-b", "A.raw", "top.qcow2")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("its own backing file"), "\(outcome.error)")
    }

    private static func rawOver(_ inner: String) -> String { #"{"driver":"raw","file":\#(inner)}"# }
    private static let ownFile = #"{"driver":"file","filename":"top.qcow2"}"#

    @Test(
        "an image cannot lie over its own file, however many raw nodes are between",
        arguments: [rawOver(ownFile), rawOver(rawOver(ownFile)), rawOver(rawOver(rawOver(ownFile)))])
    func ownFileInsideRawNodes(name: String) throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "top.qcow2", "1M")
        try fixture.shell("qemu-io -c 'write -q -P 1 0 64k' top.qcow2", linked: true)
        let before = try fixture.read("top.qcow2")
        let outcome = try fixture.platter("rebase", "-B", "raw", "-b", "json:\(name)", "top.qcow2")
        #expect(outcome.status == 1, "\(outcome.text)")
        #expect(outcome.error.contains("its own backing file"), "\(outcome.error)")
        #expect(try fixture.read("top.qcow2") == before)
    }

    @Test("the same files under another name are the same layer: nothing is copied")
    func sameDataFile() throws {
        let fixture = try CommandFixture()
        let same = Self.other.replacing("B.raw", with: "./A.raw")
        let outcome = try fixture.shell(
            """
            platter create -q -f qcow2 -o data_file=A.raw base.qcow2 1M
            qemu-io -c 'write -q -P 1 0 1M' base.qcow2
            platter create -q -f qcow2 -b base.qcow2 -B qcow2 top.qcow2
            qemu-img rebase -F qcow2 -b 'json:\(same)' top.qcow2
            platter map --output=json top.qcow2
            """, linked: true)
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(!outcome.output.contains(#""depth": 0"#), "\(outcome.output)")
    }
}
