import BlockTestSupport
import Testing

/// Names of backing files and their formats, which need not be there.
@Suite struct BackingNameTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
    }

    private func expect(_ message: String, _ arguments: String...) throws {
        let line = arguments.map { $0.isEmpty ? "''" : $0 }.joined(separator: " ")
        let outcome = try fixture.shell("qemu-img \(line)", linked: true)
        #expect(outcome.status == 1 && outcome.error == "qemu-img: \(message)\n", "\(outcome.text)")
    }

    @Test func anEmptyNameIsNone() throws {
        let message = "x: Expected backing file name, got empty string"
        try expect(message, "create", "-f", "qcow2", "-o", "backing_file=", "x", "1M")
        try expect(message, "create", "-f", "qcow2", "-b", "", "-F", "raw", "x", "1M")
        try expect(message, "create", "-f", "qed", "-b", "", "x")
        #expect(!fixture.exists("x"))
        try expect(
            "Cannot amend the backing file\nThe command 'rebase' changes it.", "amend", "-o",
            "backing_file=", "d.qcow2")
    }

    /// As with QEMU, both have to be as they are.
    @Test func amendWantsNameAndFormat() throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "-b", "d.qcow2", "-B", "qcow2", "o.qcow2")
        let refusal = "Cannot amend the backing file\nThe command 'rebase' changes it."
        try expect(refusal, "amend", "-o", "backing_file=d.qcow2", "o.qcow2")
        try expect(refusal, "amend", "-o", "backing_fmt=qcow2", "o.qcow2")
        let same = try fixture.platter("amend", "-o", "backing_file=d.qcow2,backing_fmt=qcow2", "o.qcow2")
        #expect(same.status == 0, "\(same.text)")
    }

    @Test(arguments: ["host_device", "nbd", "rbd", "file"])
    func driversThatAreNoFormats(_ name: String) throws {
        let created = try fixture.shell(
            "qemu-img create -q -f qcow2 -u -b /dev/none -F \(name) x.qcow2 1M", linked: true)
        #expect(created.status == 0, "\(created.text)")
        #expect(try fixture.platter("info", "x.qcow2").output.contains("backing file format: \(name)\n"))
        let rebased = try fixture.shell(
            "qemu-img rebase -u -b /dev/none -F \(name) d.qcow2", linked: true)
        #expect(rebased.status == 0, "\(rebased.text)")
        #expect(try fixture.platter("info", "d.qcow2").output.contains("backing file format: \(name)\n"))
    }

    @Test func namesThatNobodyHas() throws {
        for format in ["qcow2", "qed"] {
            let created = try fixture.shell(
                "qemu-img create -q -f \(format) -u -b b -F nosuch x.img 1M", linked: true)
            let message = "qemu-img: x.img: Parameter 'backing-fmt' does not accept value 'nosuch'\n"
            #expect(created.status == 1 && created.error == message, "\(created.text)")
        }
        #expect(!fixture.exists("x.img"))
        try expect("Invalid format name: 'nosuch'", "rebase", "-u", "-b", "b", "-F", "nosuch", "d.qcow2")
    }

    /// The hint belongs to the first line.
    @Test func measureTellsTheHintFirst() throws {
        try expect(
            """
            Parameter 'cluster_size' expects a non-negative number below 2^64
            Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-
            and exabytes, respectively.
            qemu-img: Invalid options for file format 'qcow2'
            """, "measure", "-O", "qcow2", "-o", "cluster_size=x", "d.qcow2")
    }
}
