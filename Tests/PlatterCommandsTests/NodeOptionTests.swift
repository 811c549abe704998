import BlockTestSupport
import Testing

/// Open options that every node has, and formats inside formats.
@Suite struct NodeOptionTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
        try fixture.platter("io", "-c", "write -P 7 0 128k", "d.qcow2")
    }

    /// The name that libvirt gives to a disk.
    private let libvirt =
        #"json:{"driver":"qcow2","node-name":"libvirt-1-format","read-only":true,"file":"#
        + #"{"driver":"file","filename":"d.qcow2","node-name":"libvirt-1-storage","auto-read-only":true,"#
        + #""discard":"unmap"}}"#

    @Test func namesAsLibvirtGivesThem() throws {
        let outcome = try fixture.platter("io", "-r", "-c", "read -P 7 0 128k", libvirt)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    @Test(arguments: [
        ("node-name=1a", "Invalid node-name: '1a'"), ("node-name=a/b", "Invalid node-name: 'a/b'"),
        ("discard=maybe", "Invalid discard option\n"),
        ("detect-zeroes=maybe", "invalid parameter value: maybe"),
        ("discard=ignore,detect-zeroes=unmap", "setting detect-zeroes to unmap is not allowed"),
        ("file.nosuch=1", "doesn't support the option 'nosuch'"),
        ("node-name=n,file.node-name=n", "Duplicate nodes with node-name='n'"),
        ("node-name=a1234567890123456789012345678901", "Node name too long"),
        ("file=n", "Cannot find device='n' nor node-name='n'"),
        ("file.aio-max-batch=x", "Parameter 'aio-max-batch' expects a number"),
        ("file.drop-cache=2", "Parameter 'drop-cache' expects 'on' or 'off'"),
        ("file.x-check-cache-dropped=2", "Parameter 'x-check-cache-dropped' expects 'on' or 'off'"),
        ("file.pr-manager=p", "No persistent reservation manager with id 'p'"),
        ("file.locking=maybe", "invalid parameter value: maybe"),
    ])
    func refusesWhatMakesNoSense(_ options: String, _ message: String) throws {
        let outcome = try fixture.platter(
            "info", "--image-opts", "driver=qcow2,file.filename=d.qcow2,\(options)")
        #expect(outcome.status == 1 && outcome.error.contains(message), "\(outcome.text)")
    }

    /// A name is free again once its node is closed, and belongs to one node of all that are open.
    @Test func namesBelongToOneNode() throws {
        let options = "driver=qcow2,node-name=a,file.node-name=b,file.filename=d.qcow2"
        let again = options.replacing("file.filename=d.qcow2", with: "file.aio-max-batch=4")
        let reopened = try fixture.platter(
            "io", "--image-opts", "-c", "reopen -o lazy-refcounts=on", "-c", "close",
            "-c", "open -o \(again) d.qcow2", "-c", "read -P 7 0 64k", options)
        #expect(reopened.status == 0, "\(reopened.text)")
        try fixture.shell("cp d.qcow2 e.qcow2")
        let both = try fixture.platter(
            "compare", "--image-opts", options, "driver=qcow2,node-name=a,file.filename=e.qcow2")
        #expect(both.status == 2 && both.error.contains("Duplicate nodes with node-name='a'"), "\(both.text)")
    }

    @Test func optionsOfTheFile() throws {
        let options =
            "driver=qcow2,file.driver=file,file.filename=d.qcow2,file.aio-max-batch=32,file.drop-cache=on,"
            + "file.x-check-cache-dropped=off,file.locking=auto,file.aio=threads"
        let outcome = try fixture.platter("io", "--image-opts", "-c", "read -P 7 0 64k", options)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    /// Zeroes become zero clusters, which `on` keeps allocated and `unmap` gives back.
    @Test(arguments: [("off", true), ("on", false), ("unmap", false)])
    func zeroesAreDetected(_ mode: String, _ isData: Bool) throws {
        let options = "driver=qcow2,discard=unmap,detect-zeroes=\(mode),file.filename=d.qcow2"
        let outcome = try fixture.platter("io", "--image-opts", "-c", "write -P 0 0 64k", options)
        #expect(outcome.status == 0, "\(outcome.text)")
        let map = try fixture.platter("map", "--output", "json", "d.qcow2")
        let first = map.output.split(separator: "\n").first ?? ""
        #expect(first.contains("\"zero\": \(!isData), \"data\": \(isData)"), "\(map.output)")
        #expect(first.contains("\"offset\"") == (mode != "unmap"), "\(map.output)")
        #expect(try fixture.platter("io", "-c", "read -P 0 0 64k", "d.qcow2").status == 0)
        #expect(try fixture.platter("io", "-c", "read -P 7 64k 64k", "d.qcow2").status == 0)
    }

    /// As somebody who may not write to the file.
    @Test func fallsBackToReadingWhereThatIsWished() throws {
        try fixture.shell("chmod 755 . && chmod 444 d.qcow2")
        let line =
            "setpriv --reuid 65534 --regid 65534 --clear-groups qemu-io -c 'read -P 7 0 64k' --image-opts"
        guard try fixture.shell("setpriv --reuid 65534 --clear-groups test -r d.qcow2").status == 0 else {
            return
        }
        let options = "driver=qcow2,file.filename=d.qcow2"
        let refused = try fixture.shell("\(line) \(options)", linked: true)
        #expect(refused.status == 1 && refused.error.contains("Permission denied"), "\(refused.text)")
        let outcome = try fixture.shell("\(line) \(options),auto-read-only=on", linked: true)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    // MARK: Formats inside formats

    /// A disk in the middle of another file, as in an OVA.
    @Test func anImageInAWindowOfAFile() throws {
        let size = try fixture.read("d.qcow2").count / 512 * 512
        try fixture.shell("(head -c 1536 /dev/zero; head -c \(size) d.qcow2; head -c 999 /dev/zero) > t.tar")
        let window =
            "driver=qcow2,file.driver=raw,file.offset=1536,file.size=\(size),file.file.filename=t.tar"
        let read = try fixture.platter("io", "-r", "--image-opts", "-c", "read -P 7 0 128k", window)
        #expect(read.status == 0, "\(read.text)")
        try fixture.platter("convert", "--image-opts", "-O", "raw", window, "out.raw")
        #expect(try fixture.platter("compare", "-F", "raw", "d.qcow2", "out.raw").status == 0)
        let info = try fixture.platter("info", "--image-opts", window)
        #expect(info.output.contains("file format: qcow2") && info.output.contains("Child node '/file/file'"))
        let over = try fixture.platter("convert", "--image-opts", "-O", "raw", window, "t.tar")
        #expect(over.status == 1, "the container must not be emptied")
    }

    @Test func anImageInsideAnotherImage() throws {
        try fixture.platter("create", "-q", "-f", "vdi", "outer.vdi", "4M")
        try fixture.platter("dd", "-f", "raw", "-O", "raw", "if=d.qcow2", "of=inner.raw")
        try fixture.platter(
            "convert", "-n", "-f", "raw", "-O", "vdi", "inner.raw", "outer.vdi")
        let nested = "driver=qcow2,file.driver=vdi,file.file.filename=outer.vdi"
        let outcome = try fixture.platter(
            "io", "--image-opts", "-c", "read -P 7 0 128k", "-c", "write -P 8 512k 64k", "-c", "flush", nested
        )
        #expect(outcome.status == 0, "\(outcome.text)")
        let check = try fixture.platter("check", "--image-opts", nested)
        #expect(check.status == 0, "\(check.text)")
        let peer = try fixture.shell("qemu-io -r -c 'read -P 8 512k 64k' --image-opts \(nested)")
        #expect(peer.status == 0 || peer.status == 127, "\(peer.text)")
    }

    /// Other programs know the format by its proper name only.
    @Test func imagesStateProperNames() throws {
        try fixture.platter("create", "-q", "-f", "vhd", "b.vhd", "1M")
        try fixture.platter("create", "-q", "-f", "qcow2", "-b", "b.vhd", "-B", "vhd", "o.qcow2")
        #expect(try fixture.platter("info", "o.qcow2").output.contains("backing file format: vpc\n"))
        try fixture.platter(
            "create", "-q", "-f", "qcow2", "-o", "backing_file=b.vhd,backing_fmt=vhd", "p.qcow2")
        #expect(try fixture.platter("info", "p.qcow2").output.contains("backing file format: vpc\n"))
        try fixture.platter("rebase", "-u", "-b", "b.vhd", "-B", "vhd", "d.qcow2")
        #expect(try fixture.platter("info", "d.qcow2").output.contains("backing file format: vpc\n"))
    }
}
