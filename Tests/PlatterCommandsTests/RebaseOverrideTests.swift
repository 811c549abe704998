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
}
