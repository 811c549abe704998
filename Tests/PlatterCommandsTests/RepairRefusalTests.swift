import BlockTestSupport
import Testing

/// Repairs that would cost data which can still be read are refused.
@Suite struct RepairRefusalTests {
    /// One byte of the capacity in a sparse VMDK's header makes grains look like tables.
    @Test(arguments: [14, 15, 16]) func aDamagedCapacityIsNoReasonToOverwriteGrains(_ offset: Int) throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "vmdk", "a.vmdk", "1M")
        try fixture.platter("io", "-c", "write -P 7 0 1M", "a.vmdk")
        try fixture.shell("printf '\\x9f' | dd of=a.vmdk bs=1 seek=\(offset) conv=notrunc status=none")
        let before = try fixture.read("a.vmdk")
        let first = try fixture.platter("io", "-r", "-f", "vmdk", "-c", "read -P 7 0 1M", "a.vmdk").status
        for mode in ["leaks", "all"] {
            let outcome = try fixture.platter("check", "-f", "vmdk", "-r", mode, "a.vmdk")
            #expect(outcome.status != 0, "\(outcome.text)")
            #expect(try fixture.read("a.vmdk") == before)
        }
        let second = try fixture.platter("io", "-r", "-f", "vmdk", "-c", "read -P 7 0 1M", "a.vmdk").status
        #expect(second == first)
    }
}
