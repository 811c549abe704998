import BlockTestSupport
import Foundation
import Testing

/// The program itself, making images, and how they are named and opened, as a person calls it.
@Suite struct ImageCommandTests: CommandSuite {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    // MARK: The program

    @Test("messages begin with the name by which the program was called")
    func programName() throws {
        try expect(
            "platter info", 1, "",
            "platter: Expecting one image file name\nTry 'platter info --help' for more information\n")
        try expect(
            "qemu-img info", 1, "",
            "qemu-img: Expecting one image file name\nTry 'qemu-img info --help' for more information\n")
        try expect(
            "platter --nosuch", 1, "",
            "platter: unrecognized option '--nosuch'\nTry 'platter --help' for more information\n")
    }

    @Test("help and version are printed on standard output", arguments: ["--help", "-h", "--version", "-V"])
    func help(option: String) throws {
        let outcome = try fixture.platter(option)
        #expect(outcome.status == 0)
        #expect(outcome.error == "")
        #expect(outcome.output.hasPrefix("platter version "))
        #expect(outcome.output.contains("measure ") == option.contains("h"))
    }

    @Test("traces are refused")
    func laterOptions() throws {
        #expect(try fixture.platter("-T", "x", "info", "a.raw").status == 1)
    }

    @Test("a full standard output is an error")
    func fullOutput() throws {
        try expect(
            "platter create -q a.raw 1M; platter info a.raw >/dev/full", 1, "",
            "platter: Could not write to standard output: No space left on device\n")
    }

    // MARK: create

    @Test(
        "sizes are taken and refused as in qemu-img",
        arguments: [
            ("1.5k", 1536), ("0x10", 16), (" 1", 1), ("1b", 1), ("1.0", 1), ("1.", 1), ("+1", 1),
            ("00010", 10),
            ("3.14159M", 3_294_196), ("0", 0),
        ])
    func goodSizes(text: String, bytes: Int) throws {
        try expect("platter create -f raw s.raw '\(text)'", 0, "Formatting 's.raw', fmt=raw size=\(bytes)\n")
    }

    @Test(
        "sizes that are none",
        arguments: [
            "10X", "1Z", "1e3", "1.5", "1.5b", ".", "1 ", "1k1", "", "k", "1kb", "1KiB", "0x", "1,5k", "inf",
            "- 1",
        ])
    func badSizes(text: String) throws {
        try expect(
            "platter create -f raw s.raw -- '\(text)'", 1, "",
            "platter: Invalid image size specified: '\(text)'\n")
        #expect(!fixture.exists("s.raw"))
    }

    @Test("sizes that are out of range", arguments: ["9E", "8E", "16E", "-1", "-1k", "18446744073709551615"])
    func wideSizes(text: String) throws {
        try expect(
            "platter create -f raw s.raw -- \(text)", 1, "",
            "platter: Invalid image size specified. Must be between 0 and 9223372036854775807.\n")
    }

    @Test("commas in names are doubled in the announcement and in -o")
    func commas() throws {
        try expect("platter create -q -f qcow2 'x,y.qcow2' 1M", 0)
        let line =
            "fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 "
            + "backing_file=x,,y.qcow2 backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16\n"
        try expect(
            "platter create -f qcow2 -b x,y.qcow2 -F qcow2 o,v.qcow2", 0, "Formatting 'o,v.qcow2', " + line)
        try expect(
            "platter create -f qcow2 -o backing_file=x,,y.qcow2 -o backing_fmt=qcow2 o1.qcow2", 0,
            "Formatting 'o1.qcow2', " + line)
    }

    @Test(
        "what create refuses",
        arguments: [
            (
                "-f raw x.raw 1M extra",
                "Unexpected argument: extra\nTry 'platter create --help' for more information"
            ),
            ("-f raw -o size=2M x.raw 1M", "x.raw: The image size must be specified only once"),
            ("-f raw -b a -F raw x.raw 1M", "x.raw: Backing file not supported for file format 'raw'"),
            (
                "-f qcow2 -b x.qcow2 -F raw x.qcow2",
                "x.qcow2: Error: Trying to create an image with the same filename as the backing file"
            ),
            ("-f qcow2 -u -b a x.qcow2 1M", "x.qcow2: Backing file specified without backing format"),
            ("-f raw foo:bar 1M", "foo:bar: Unknown protocol 'foo'"),
            (
                "-f qcow2 -o lazy_refcounts=x x.qcow2 1M",
                "x.qcow2: Parameter 'lazy_refcounts' expects 'on' or 'off'"
            ),
            ("-f qcow2 -o refcount_bits=x x.qcow2 1M", "x.qcow2: Parameter 'refcount_bits' expects a number"),
            ("-f qcow2 -o =1 x.qcow2 1M", "x.qcow2: Invalid parameter ''"),
            ("-f qcow2 -o , x.qcow2 1M", "Invalid option list: ,"),
            ("-f qcow2 -o '' x.qcow2 1M", "Invalid option list: "),
        ])
    func createErrors(arguments: String, message: String) throws {
        try expect("platter create \(arguments)", 1, "", "platter: \(message)\n")
        #expect(!fixture.exists("x.raw") && !fixture.exists("x.qcow2"))
    }

    @Test("-o help with a file lists the protocol's options too")
    func optionHelp() throws {
        let outcome = try fixture.platter("create", "-f", "raw", "-o", "?", "x.raw")
        #expect(outcome.status == 0)
        let names = outcome.output.split(separator: "\n").map { $0.prefix { $0 != "<" } }
        #expect(
            names == ["Supported options:", "  extent_size_hint=", "  nocow=", "  preallocation=", "  size="])
    }

    // MARK: Names and open options

    @Test(
        "an image is the same by every name",
        arguments: [
            "a.qcow2", "./a.qcow2", "file:a.qcow2", "-f qcow2 a.qcow2",
            "--image-opts driver=qcow2,file.driver=file,file.filename=a.qcow2",
            "--image-opts file.filename=a.qcow2", #"'json:{"driver":"qcow2","file.filename":"a.qcow2"}'"#,
            #"'json:{"file":{"driver":"file","filename":"a.qcow2"}}'"#,
        ])
    func names(name: String) throws {
        try expect("platter create -q -f qcow2 a.qcow2 3M", 0)
        let outcome = try fixture.shell("platter info \(name)", linked: true)
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("a.qcow2\nfile format: qcow2\nvirtual size: 3 MiB (3145728 bytes)\n"))
    }

    @Test("a colon is part of the name behind a slash")
    func colon() throws {
        try expect("platter create -q -f raw ./a:b 1M", 0)
        #expect(fixture.exists("a:b"))
        #expect(try fixture.shell("platter info ./a:b", linked: true).status == 0)
        try expect("platter info a:b", 1, "", "platter: Could not open 'a:b': Unknown protocol 'a'\n")
    }

    @Test("raw shows a window of its file")
    func window() throws {
        try fixture.write("w.raw", [UInt8](repeating: 1, count: 65536) + [UInt8](repeating: 2, count: 65536))
        try expect(
            "platter dd --image-opts if=driver=raw,offset=64k,size=1k,file.filename=w.raw of=o.raw", 0)
        #expect(try fixture.read("o.raw") == [UInt8](repeating: 2, count: 1024))
    }

    @Test(
        "what cannot be opened",
        arguments: [
            ("-f nosuch a.raw", "a.raw", "Unknown driver 'nosuch'"),
            ("--image-opts a.raw", "a.raw", "Cannot find device='a.raw' nor node-name='a.raw'"),
            ("--image-opts driver=raw", "driver=raw", "A block device must be specified for \"file\""),
            ("'json:{}'", "json:{}", "Must specify either driver or file"),
            ("''", "", "The 'file' block driver requires a file name"),
        ])
    func openErrors(arguments: String, name: String, reason: String) throws {
        try expect("platter create -q a.raw 1M", 0)
        try expect("platter info \(arguments)", 1, "", "platter: Could not open '\(name)': \(reason)\n")
    }

    @Test("a format and image options exclude each other", arguments: ["info", "map", "check", "compare x"])
    func exclusive(command: String) throws {
        let outcome = try fixture.shell("platter \(command) --image-opts -f raw driver=raw", linked: true)
        #expect(outcome.status == (command.hasPrefix("compare") ? 2 : 1))
        #expect(outcome.error == "platter: --image-opts and --format are mutually exclusive\n")
    }

    @Test("cache modes are known by name")
    func cacheModes() throws {
        try expect("platter create -q -f qcow2 a.qcow2 1M", 0)
        for mode in ["none", "off", "writeback", "writethrough", "directsync", "unsafe"] {
            #expect(try fixture.platter("info", "-t", mode, "a.qcow2").status == 0)
        }
        try expect("platter info -t x a.qcow2", 1, "", "platter: Invalid cache option: x\n")
        try expect("platter compare -T x a.qcow2 a.qcow2", 2, "", "platter: Invalid source cache option: x\n")
    }
}
