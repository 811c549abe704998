import BlockTestSupport
import Testing

@testable import PlatterCommands

/// Mistyped names, the program's own names, and what scripts look for.
@Suite struct NameHintTests: CommandSuite {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    @Test(
        "a mistyped name is answered with the nearest one",
        arguments: [
            ("conver a b", "convert"), ("chekc a", "check"), ("create -f qcow3 x 1M", "qcow2"),
            ("convert -O vmkd a b", "vmdk"), ("create -f qcow2 -o clustersize=4k x 1M", "cluster_size"),
            ("amend -f qcwo2 -o compat=1.1 a", "qcow2"), ("info --ouptut=json a", "--output"),
            ("--versoin", "--version"), ("info -f qcow22 a", "qcow2"),
            ("info --image-opts driver=qcow2,file.driver=fiel,file.filename=a", "file"),
            ("io -c raed a", "read"),
        ])
    func nearest(_ line: String, _ meant: String) throws {
        try fixture.write("a", [UInt8](repeating: 0, count: 512))
        let outcome = try fixture.shell("platter \(line)", linked: true)
        #expect(outcome.status == 1)
        #expect(outcome.text.contains("Did you mean '\(meant)'?\n"), "\(outcome.text)")
    }

    @Test(
        "a name that is near to none gets no hint", arguments: ["frobnicate", "x", "create -f nosuch x 1M"])
    func noHint(_ line: String) throws {
        let outcome = try fixture.shell("platter \(line)", linked: true)
        #expect(outcome.status == 1)
        #expect(!outcome.error.contains("Did you mean"))
    }

    @Test("options of qemu-io without its name are told where they belong")
    func aliasHint() throws {
        let outcome = try fixture.platter("-c", "read 0 1", "x")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("'-c' is an option of 'platter io'"))
    }

    @Test("versions are those that scripts compare with; our own stands beside")
    func versions() throws {
        let own = PlatterProgram.version
        try expect("platter --version", 0, "platter version \(own)\n")
        try expect("qemu-img --version", 0, "qemu-img version 10.2.0 (platter \(own))\n")
        try expect("qemu-img -V", 0, "qemu-img version 10.2.0 (platter \(own))\n")
        try expect("qemu-io --version", 0, "qemu-io version 10.2.0 (platter \(own))\n")
    }

    @Test("the help lists the formats as scripts look for them")
    func formats() throws {
        let outcome = try fixture.shell("qemu-img --help", linked: true)
        let line = outcome.output.split(separator: "\n").first { $0.hasPrefix("Supported formats: ") }
        let names = line?.split(separator: " ").map(String.init) ?? []
        for name in ["qcow2", "raw", "vmdk", "vdi", "vpc"] { #expect(names.contains(name)) }
    }
}
