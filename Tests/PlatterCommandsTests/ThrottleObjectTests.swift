import BlockCore
import BlockTestSupport
import Testing

@testable import PlatterCommands

/// `--object throttle-group,...`, and filters that name the group.
@Suite struct ThrottleObjectTests {
    private func message(_ definitions: String...) -> String? {
        blockError { () throws(BlockError) in try CommandObjects(definitions) }?.message
    }

    @Test(arguments: [
        "throttle-group,id=g,limits.bps-total=10,limits.bps-total-max=20",
        "throttle-group,id=g,x-bps-total=10,x-bps-total-max=0x14",
        "throttle-group,id=g,x-bps-total=10,limits.bps-total-max=20",
        #"{"qom-type": "throttle-group", "id": "g", "limits": {"bps-total": 10, "bps-total-max": 20}}"#,
        #"{"qom-type": "throttle-group", "id": "g", "x-bps-total": 10, "x-bps-total-max": 20}"#,
    ]) func spellings(_ definition: String) throws {
        let group = try CommandObjects([definition]).throttleGroups.group("g")
        var expected = IOLimits()
        expected.bytes.total = .init(average: 10, maximum: 20)
        #expect(group.limits == expected)
        #expect(group.name == "g")
    }

    @Test(arguments: [
        ("throttle-group", "Parameter 'id' is missing"),
        ("throttle-group,id=g,foo=1", "Parameter 'foo' is unexpected"),
        ("throttle-group,id=g,limits.bps-foo=1", "Parameter 'limits.bps-foo' is unexpected"),
        ("throttle-group,id=g,x-bps-total=-1", "Property values cannot be negative"),
        (
            "throttle-group,id=g,limits.bps-total=-1",
            "bps/iops/max values must be within [0, 1000000000000000]"
        ),
        (
            #"{"qom-type": "throttle-group", "id": "g", "limits": {"bps-total": "10"}}"#,
            "Invalid parameter type for 'limits.bps-total', expected: integer"
        ),
    ]) func refusals(_ definition: String, _ expected: String) {
        #expect(message(definition) == expected)
    }

    @Test func idsAreSharedByAllTypes() {
        #expect(
            message("secret,id=g,data=x", "throttle-group,id=g")
                == "attempt to add duplicate property 'g' to object (type 'container')")
    }

    /// A group that two filters name is one group: the second read waits for the first.
    @Test func twoNodesOfOneGroup() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "raw", "base.raw", "1M")
        let top = "driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=top.qcow2"
        let base =
            "file.backing.driver=throttle,file.backing.throttle-group=g,"
            + "file.backing.file.filename=base.raw"
        try fixture.platter(
            "create", "-q", "-u", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "1M")
        func read(_ options: String) throws -> String {
            let outcome = try fixture.platter(
                "io", "--object", "throttle-group,id=g,limits.bps-total=655360", "-c", "read 0 128k",
                "--image-opts", options)
            #expect(outcome.status == 0, "\(outcome.text)")
            return outcome.output
        }
        // 128 KiB by the upper filter, then by the lower one: of these 64 KiB may be left, which takes 100
        // ms.
        #expect(try read(top).contains("; 00.0"))
        #expect(try read("\(top),\(base)").contains("; 00.1"))
    }

    @Test(arguments: [
        ("", "Please specify a throttle group"), (",throttle-group=h", "Throttle group 'h' does not exist"),
    ]) func filtersNeedAGroup(_ options: String, _ expected: String) throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "raw", "a.raw", "1M")
        let outcome = try fixture.platter(
            "info", "--object", "throttle-group,id=g", "--image-opts",
            "driver=throttle,file.driver=raw,file.file.filename=a.raw\(options)")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains(expected), "\(outcome.error)")
    }

    // MARK: io stats

    @Test func statisticsOfAnImage() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        let outcome = try fixture.platter(
            "io", "-c", "write -q 0 64k", "-c", "write -qz 64k 4k", "-c", "read -q 0 1k", "-c", "read 1M 1",
            "-c", "stats -r", "-c", "stats", "a.qcow2")
        let rows = outcome.output.split(separator: "\n").map { line in
            line.split(separator: " ").map(String.init)
        }
        func row(_ name: String, _ place: Int) -> [String] {
            let found = rows.filter { $0.first == name && $0.count == 7 }
            guard found.indices.contains(place) else { return [] }
            // Without the milliseconds.
            return Array(found[place][1...2] + found[place][4...])
        }
        #expect(row("read", 0) == ["1", "1024", "0", "0", "1"], "\(outcome.text)")
        #expect(row("write", 0) == ["2", "69632", "0", "0", "0"])
        #expect(rows.contains(["end", "of", "the", "highest", "write:", "69632"]))
        #expect(row("write", 1) == ["0", "0", "0", "0", "0"])
        #expect(rows.contains(["end", "of", "the", "highest", "write:", "0"]))
    }

    @Test func qemuHasNoStatistics() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "raw", "a.raw", "1M")
        let outcome = try fixture.shell("qemu-io -f raw -c stats -c help a.raw", linked: true)
        #expect(outcome.error == "command \"stats\" not found\n")
        #expect(!outcome.output.contains("stats"))
        #expect(try fixture.platter("io", "-c", "help", "a.raw").output.contains("\nstats [-r] -- "))
    }
}
