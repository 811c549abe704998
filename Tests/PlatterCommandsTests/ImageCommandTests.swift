import BlockTestSupport
import Foundation
import Testing

/// The commands that look at images and change them in place, as a person calls them.
@Suite struct ImageCommandTests {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private func expect(
        _ line: String, _ status: Int32, _ output: String = "", _ error: String = "",
        at place: SourceLocation = #_sourceLocation
    ) throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == status, "\(line)", sourceLocation: place)
        #expect(outcome.output == output, "\(line)", sourceLocation: place)
        #expect(outcome.error == error, "\(line)", sourceLocation: place)
    }

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
            "platter: Could not write to standard output\n")
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

    // MARK: info

    @Test("info opens no file that an image names, and the chain only as the policy says")
    func infoOpensNothing() throws {
        try expect(
            "mkdir d; platter create -q -f raw d/base.raw 1M; platter create -q -f raw base.raw 1M; "
                + "platter create -q -f qcow2 -b d/base.raw -F raw a.qcow2; "
                + "platter create -q -f qcow2 -b base.raw -F raw b.qcow2; rm d/base.raw", 0)
        #expect(try fixture.platter("info", "a.qcow2").status == 0)
        #expect(try fixture.platter("info", "--backing-chain", "a.qcow2").status == 1)
        #expect(try fixture.platter("info", "--backing-chain", "b.qcow2").status == 0)
        let strict = try fixture.platter("--open-policy=same-folder", "info", "--backing-chain", "a.qcow2")
        #expect(strict.status == 1)
        #expect(
            strict.error == "platter: The open policy does not allow the backing file 'd/base.raw'\n")
        #expect(
            try fixture.platter("--open-policy", "same-folder", "info", "--backing-chain", "b.qcow2").status
                == 0)
        #expect(
            try fixture.platter("--open-policy", "none", "info", "--backing-chain", "b.qcow2").status == 1)
        #expect(try fixture.platter("--open-policy", "none", "info", "b.qcow2").status == 0)
        #expect(try fixture.platter("--open-policy", "none", "check", "b.qcow2").status == 1)
    }

    @Test("an image does not get a file outside its folder opened as its data, unless the user says so")
    func dataFilesElsewhere() throws {
        for (name, image) in [("../victim", "up.qcow2"), ("\(fixture.folder.path)/victim", "away.qcow2")] {
            try fixture.shell("mkdir -p d", linked: true)
            let options = "data_file=\(name),data_file_raw=on"
            try fixture.platter("create", "-q", "-f", "qcow2", "-o", options, "d/\(image)", "64k")
            let victim = [UInt8](repeating: 7, count: 65536)
            try fixture.write("victim", victim)
            for command in ["resize --shrink d/\(image) 512", "convert d/\(image) out.raw"] {
                let refused = try fixture.shell("platter \(command)", linked: true)
                #expect(refused.status == 1)
                let reason = "The open policy does not allow the data file '\(name)'\n"
                #expect(refused.error.contains(reason), "\(refused.error)")
            }
            #expect(try fixture.read("victim") == victim)
            #expect(try fixture.platter("info", "d/\(image)").status == 0)
            #expect(try fixture.platter("--open-policy=any", "convert", "d/\(image)", "out.raw").status == 0)
            #expect(try fixture.read("out.raw") == victim)
            let named = "driver=qcow2,file.filename=d/\(image),data-file.filename=victim"
            #expect(try fixture.platter("map", "--image-opts", named).status == 0)
        }
    }

    @Test("a chain that loops is told of")
    func loop() throws {
        try expect(
            "platter create -q -f qcow2 a.qcow2 1M; platter create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2; "
                + "platter rebase -u -b b.qcow2 -F qcow2 a.qcow2", 0)
        let outcome = try fixture.platter("info", "--backing-chain", "a.qcow2")
        #expect(outcome.status == 1)
        #expect(outcome.error == "platter: Backing file 'a.qcow2' creates an infinite loop.\n")
    }

    @Test("the actual path is told where it differs")
    func actualPath() throws {
        try expect("mkdir d; platter create -q -f qcow2 -u -b ../a.qcow2 -F qcow2 d/o.qcow2 1M", 0)
        let outcome = try fixture.platter("info", "d/o.qcow2")
        #expect(outcome.output.contains("\nbacking file: ../a.qcow2 (actual path: d/../a.qcow2)\n"))
    }

    // MARK: map

    @Test("map tells runs of a chain, in both forms")
    func map() throws {
        try fixture.write(
            "base.raw", [UInt8](repeating: 1, count: 65536) + [UInt8](repeating: 2, count: 65536))
        try expect(
            "platter create -q -f qcow2 -b base.raw -F raw top.qcow2 256k; "
                + "qemu-io -f qcow2 -c 'write -q -P 3 64k 64k' top.qcow2", 0)
        try expect(
            "platter map top.qcow2", 0,
            """
            Offset          Length          Mapped to       File
            0               0x10000         0               base.raw
            0x10000         0x10000         0x50000         top.qcow2

            """)
        func run(_ start: Int, _ length: Int, _ depth: Int, _ rest: String) -> String {
            "{ \"start\": \(start), \"length\": \(length), \"depth\": \(depth), \(rest)}"
        }
        let data = "\"present\": true, \"zero\": false, \"data\": true, \"compressed\": false, \"offset\": "
        let none = "\"present\": false, \"zero\": true, \"data\": false, \"compressed\": false"
        try expect(
            "platter map --output=json top.qcow2", 0,
            "[" + run(0, 65536, 1, data + "0") + ",\n" + run(65536, 65536, 0, data + "327680") + ",\n"
                + run(131072, 131072, 0, none) + "]\n")
        try expect(
            "platter map --output=json -s 70000 -l 1k top.qcow2", 0,
            "[" + run(70000, 1024, 0, data + "332144") + "]\n")
        try expect(
            "platter map --output=json -s 1M top.qcow2", 0,
            "[{ \"start\": 1048576, \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, "
                + "\"data\": false, \"compressed\": false}]\n")
        try expect("platter map -s x top.qcow2", 1, "", "platter: Invalid start offset specified: 'x'\n")
    }

    // MARK: snapshot

    @Test("snapshots are listed as JSON, empty lists too")
    func snapshotJSON() throws {
        try expect(
            "platter create -q -f qcow2 a.qcow2 1M; platter snapshot -l --output=json a.qcow2", 0, "[\n]\n")
        try expect("platter snapshot -l a.qcow2", 0)
        try expect("platter snapshot -c 'one \"1\"' a.qcow2", 0)
        let outcome = try fixture.platter("snapshot", "--output=json", "a.qcow2")
        let list = try JSONSerialization.jsonObject(with: Data(outcome.outputBytes)) as? [[String: Any]]
        #expect(list?.count == 1)
        #expect(list?.first?["name"] as? String == "one \"1\"")
        #expect(list?.first?["id"] as? String == "1")
        #expect(list?.first?["vm-state-size"] as? Int == 0)
        let age = Date().timeIntervalSince1970 - Double(list?.first?["date-sec"] as? Int ?? 0)
        #expect(abs(age) < 100)
    }

    @Test("one action at a time, and names that fit")
    func snapshotErrors() throws {
        try expect("platter create -q -f qcow2 a.qcow2 1M", 0)
        try expect(
            "platter snapshot -c x -d y a.qcow2", 1, "",
            "platter: Cannot mix '-l', '-a', '-c', '-d'\nTry 'platter snapshot --help' for more information\n"
        )
        let long = String(repeating: "x", count: 256)
        try expect(
            "platter snapshot -c \(long) a.qcow2", 1, "",
            "platter: Could not create snapshot '\(long)': The name has more than 255 bytes\n")
        try expect(
            "platter snapshot -U -c x a.qcow2", 1, "",
            "platter: Could not open 'a.qcow2': force-share=on can only be used with read-only images\n")
    }

    // MARK: resize, measure, dd, check, compare

    @Test(
        "resize",
        arguments: [
            ("a.qcow2 -1M --shrink", 0, "Image resized.\n", ""), ("-q a.qcow2 +1M", 0, "", ""),
            ("a.qcow2 -1T", 1, "", "New image size must be positive"),
            ("a.qcow2 0", 1, "", "New image size must be positive"),
            ("a.qcow2 16E", 1, "", "Value '16E' is out of range for parameter 'size'"),
            ("--preallocation=foo a.qcow2 9M", 1, "", "Invalid preallocation mode 'foo'"),
            (
                "--preallocation=full --shrink a.qcow2 1M", 1, "",
                "Preallocation can only be used for growing images"
            ),
            ("a.qcow2", 1, "", "Not enough arguments\nTry 'platter resize --help' for more information"),
            (
                "a b c", 1, "",
                "Expecting image file name and size\nTry 'platter resize --help' for more information"
            ),
        ] as [(String, Int32, String, String)])
    func resize(arguments: String, status: Int32, output: String, message: String) throws {
        try expect("platter create -q -f qcow2 a.qcow2 4M", 0)
        try expect(
            "platter resize \(arguments)", status, output, message.isEmpty ? "" : "platter: \(message)\n")
    }

    @Test(
        "measure",
        arguments: [
            ("--size 1", 0, "required size: 512\nfully allocated size: 512\n", ""),
            ("", 1, "", "Either --size N or one filename must be specified."),
            ("--size 1G a.raw", 1, "", "--size N cannot be used together with a filename."),
            ("a b", 1, "", "At most one filename argument is allowed."),
            ("-f raw --size 1", 1, "", "--image-opts, -f, and -l require a filename argument."),
            ("-O nosuch --size 1", 1, "", "Unknown file format 'nosuch'"),
            ("--size x", 1, "", "Invalid image size specified: 'x'"),
            (
                "-O qcow2 -o foo=1 --size 1", 1, "",
                "Invalid parameter 'foo'\nplatter: Invalid options for file format 'qcow2'"
            ),
        ] as [(String, Int32, String, String)])
    func measure(arguments: String, status: Int32, output: String, message: String) throws {
        try expect(
            "platter measure \(arguments)", status, output, message.isEmpty ? "" : "platter: \(message)\n")
    }

    @Test(
        "dd copies the blocks that are asked for",
        arguments: [
            ("bs=1k skip=3 count=5", 3072..<8192), ("bs=4k", 0..<10240), ("skip=2", 1024..<10240),
            ("count=0", 0..<0), ("bs=8k skip=1 count=9", 8192..<10240),
        ])
    func dd(operands: String, range: Range<Int>) throws {
        var random = SeededRandom(seed: 5)
        let bytes = random.bytes(10240)
        try fixture.write("in.raw", bytes)
        try expect("platter dd -f raw -O raw if=in.raw of=out.raw \(operands)", 0)
        #expect(try fixture.read("out.raw") == Array(bytes[range]))
        try expect("platter dd -f raw -O qcow2 if=in.raw of=out.qcow2 \(operands)", 0)
        try expect("qemu-img compare -q -f raw -F qcow2 out.raw out.qcow2; platter check -q out.qcow2", 0)
    }

    @Test(
        "what dd refuses",
        arguments: [
            ("", "Must specify both input and output files"), ("foo", "unrecognized operand foo"),
            ("if=in.raw of=in.raw", "in.raw: the output is the input file, or a backing file of it"),
            ("if=in.raw of=x bs=0", "Invalid bs specified. Must be between 1 and 2147483647."),
            ("if=in.raw of=x count=x", "Invalid count specified: 'x'"),
            ("-O nosuch if=in.raw of=x", "Unknown file format 'nosuch'"),
            (
                "if=in.raw of=/nonexistent/x",
                "/nonexistent/x: error while creating output image: "
                    + "Could not create '/nonexistent/x': No such file or directory"
            ),
        ])
    func ddErrors(operands: String, message: String) throws {
        try fixture.write("in.raw", [1, 2, 3])
        try expect("platter dd \(operands)", 1, "", "platter: \(message)\n")
        #expect(try fixture.read("in.raw") == [1, 2, 3])
        #expect(!fixture.exists("x"))
    }

    @Test("check takes leaks or all")
    func checkRepair() throws {
        try expect("platter create -q -f qcow2 a.qcow2 4M", 0)
        try expect(
            "platter check -r foo a.qcow2", 1, "",
            "platter: --repair (-r) expects 'leaks' or 'all', not 'foo'\n"
                + "Try 'platter check --help' for more information\n")
        try expect(
            "platter check --output=xml a.qcow2", 1, "",
            "platter: --output expects 'human' or 'json', not 'xml'\n"
                + "Try 'platter check --help' for more information\n")
    }

    @Test("compare in JSON, with progress, and of different sizes")
    func compare() throws {
        try fixture.write("a.raw", [UInt8](repeating: 1, count: 2048))
        try fixture.write("b.raw", [UInt8](repeating: 1, count: 1024) + [UInt8](repeating: 2, count: 4096))
        try expect(
            "platter compare --output=json a.raw b.raw", 1,
            """
            {
                "identical": false,
                "sizes-differ": true,
                "reason": "content",
                "offset": 1024
            }

            """)
        try expect("platter compare a.raw b.raw", 1, "Content mismatch at offset 1024!\n")
        try expect(
            "platter compare -p a.raw a.raw", 0,
            "    (0.00/100%)\r    (100.00/100%)\rImages are identical.\n\n")
        try expect(
            "platter compare a.raw", 1, "",
            "platter: Expecting two image file names\nTry 'platter compare --help' for more information\n")
    }

    // MARK: Progress

    @Test("on a terminal the progress is one line on standard error")
    func terminalProgress() throws {
        let outcome = try fixture.shell(
            """
            platter create -q -f qcow2 a.qcow2 64M
            script -qec 'platter compare -p a.qcow2 a.qcow2' /dev/null
            """, linked: true)
        #expect(outcome.status == 0)
        let lines = outcome.output.split(separator: "\r\n").map(String.init)
        #expect(lines.count == 2)
        #expect(lines.first?.contains("\r100.00%  in 0:0") == true)
        #expect(lines.last == "Images are identical.")
    }

    @Test("SIGUSR1 prints one line, also without -p")
    func statusSignal() throws {
        try fixture.write("in.raw", [UInt8](repeating: 7, count: 100_000))
        let outcome = try fixture.shell(
            """
            platter convert -r 50k -m 1 -f raw in.raw out.raw & child=$!
            for i in $(seq 100); do test -e out.raw && break; sleep 0.05; done
            sleep 0.2; kill -USR1 $child; wait $child
            """, linked: true)
        #expect(outcome.status == 0)
        #expect(outcome.output == "")
        #expect(outcome.error.contains("% "))
        #expect(outcome.error.contains("/s  "))
        #expect(outcome.error.split(separator: "\n").count == 1)
        #expect(try fixture.read("out.raw").prefix(100_000).allSatisfy { $0 == 7 })
    }
}
