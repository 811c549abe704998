import BlockTestSupport
import Testing

/// `convert -C` onto images that are there already.
@Suite struct OffloadTests {
    /// A preallocated qcow2 image looks full of holes, like a raw one, but its clusters may be a snapshot's.
    @Test func snapshotOfTheTargetKeepsItsContents() throws {
        let fixture = try CommandFixture()
        let old = [UInt8](repeating: 1, count: 1 << 20)
        try fixture.write("old.raw", old + [UInt8](repeating: 0, count: 63 << 20))
        try fixture.write("new.raw", [UInt8](repeating: 2, count: 1 << 20))
        try fixture.shell(
            """
            platter create -q -f qcow2 -o preallocation=metadata t.qcow2 64M
            platter convert -n -f raw -O qcow2 old.raw t.qcow2
            platter snapshot -c one t.qcow2
            platter convert -n -C -f raw -O qcow2 new.raw t.qcow2
            platter convert -l one -O raw t.qcow2 snapshot.raw
            """, linked: true)
        #expect(try Array(fixture.read("snapshot.raw").prefix(1 << 20)) == old)
    }
}
