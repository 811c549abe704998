import BlockTestSupport
import Foundation
import Testing

/// The commands that change, measure and judge images in place, as a person calls them.
@Suite struct ImageChangeTests: CommandSuite {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

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
            "platter compare a.raw", 2, "",
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
            \(CommandFixture.poll)
            platter convert -r 50k -m 1 -f raw in.raw out.raw & child=$!
            poll 'ls | grep -q ^out.raw'
            kill -USR1 $child; wait $child
            """, linked: true)
        #expect(outcome.status == 0)
        #expect(outcome.output == "")
        #expect(outcome.error.hasPrefix("    ("))
        #expect(outcome.error.contains("/100%)  "))
        #expect(outcome.error.contains("/s  "))
        #expect(outcome.error.split(separator: "\n").count == 1)
        #expect(try fixture.read("out.raw").prefix(100_000).allSatisfy { $0 == 7 })
    }
}
