import BlockTestSupport
import Foundation
import Testing

/// `convert`, `rebase`, `commit` and `stream` as a person calls them.
@Suite struct CopyCommandTests {
    let fixture: CommandFixture

    /// A raw disk of 1 MiB with data at its start, a qcow2 image of it, and a chain of three.
    init() throws {
        fixture = try CommandFixture()
        try fixture.write("src.raw", Self.disk)
        try fixture.platter("convert", "-f", "raw", "-O", "qcow2", "src.raw", "data.qcow2")
        try fixture.shell(
            """
            platter create -q -f qcow2 -b src.raw -B raw one.qcow2
            platter create -q -f qcow2 -b one.qcow2 -B qcow2 two.qcow2
            platter create -q -f qcow2 -b two.qcow2 -B qcow2 three.qcow2
            """, linked: true)
    }

    static let disk =
        Array("platter!".utf8) + [UInt8](repeating: 7, count: 99_992)
        + [UInt8](repeating: 0, count: (1 << 20) - 100_000)

    private func raw(of image: String) throws -> [UInt8] {
        let outcome = try fixture.platter("convert", "-O", "raw", image, "-")
        #expect(outcome.status == 0, "\(outcome.error)")
        return outcome.outputBytes
    }

    @Test(
        "what is called wrongly is refused with qemu-img's words",
        arguments: [
            ("convert", "Must specify image file name"),
            ("convert a", "Must specify image file name"),
            ("convert -O nosuch src.raw o", "Unknown file format 'nosuch'"),
            ("convert -c src.raw o", "Compression not supported for this file format"),
            ("convert -S 0 -C src.raw o", "Cannot enable copy offloading when -S is used"),
            ("convert -C -c -O qcow2 src.raw o", "Cannot enable copy offloading when -c is used"),
            (
                "convert -m 17 src.raw o",
                "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16"
            ),
            ("convert --target-is-zero src.raw o", "--target-is-zero requires use of -n flag"),
            ("convert --target-image-opts src.raw o", "--target-image-opts requires use of -n flag"),
            (
                "convert -n -o size=3 -O qcow2 src.raw data.qcow2",
                "-o has no effect when skipping image creation"
            ),
            (
                "convert -B src.raw -O qcow2 data.qcow2 o",
                "Use of backing file requires explicit backing format"
            ),
            ("convert -B src.raw -F raw src.raw o", "Backing file not supported for file format 'raw'"),
            (
                "convert -B src.raw -F raw -O qcow2 src.raw src.raw o",
                "Having a backing file for the target makes no sense when concatenating multiple input images"
            ),
            (
                "convert -l x src.raw o",
                "Failed to load snapshot: Block format 'raw' used by device '' does not support "
                    + "temporarily loading internal snapshots"
            ),
            ("convert -l x data.qcow2 o", "Failed to load snapshot: Can't find snapshot"),
            ("convert -T bad src.raw o", "Invalid source cache option: bad"),
            ("convert -t bad src.raw o", "Invalid cache option: bad"),
            (
                "convert --skip-broken-bitmaps src.raw o",
                "Use of --skip-broken-bitmaps requires --bitmaps"
            ),
            ("convert --bitmaps -O qcow2 src.raw o", "Source lacks bitmap support"),
            ("convert --bitmaps data.qcow2 o", "Format driver 'raw' does not support bitmaps"),
            (
                "convert --bitmaps -O qcow2 data.qcow2 data.qcow2 o",
                "Copying bitmaps only possible with single source"
            ),
            ("convert - o", "Standard input can be read as 'raw' only; add '-f raw'"),
            (
                "convert -O qcow2 src.raw -",
                "Standard output can be written as 'raw', or as a stream of the format vmdk"
            ),
            (
                "rebase -b one.qcow2 three.qcow2",
                "Could not change the backing file to 'one.qcow2': backing format must be specified"
            ),
            ("rebase -b one.qcow2 -F nosuch three.qcow2", "Invalid format name: 'nosuch'"),
            (
                "rebase -f raw -b '' src.raw",
                "Could not change the backing file to '': Operation not supported"
            ),
            ("rebase -b three.qcow2 -F qcow2 three.qcow2", nil),
            ("commit -f raw src.raw", "Image does not have a backing file"),
            ("commit -b nosuch three.qcow2", "Did not find 'nosuch' in the backing chain of 'three.qcow2'"),
            ("stream -b nosuch three.qcow2", "Did not find 'nosuch' in the backing chain of 'three.qcow2'"),
            ("stream -B name three.qcow2", "--base-name requires --base"),
            ("stream -f raw src.raw", nil),
        ] as [(String, String?)])
    func refusals(line: String, message: String?) throws {
        let outcome = try fixture.shell("platter \(line)", linked: true)
        #expect(outcome.status == 1)
        #expect(outcome.output == "")
        #expect(outcome.error.hasPrefix("platter: "))
        if let message { #expect(outcome.error == "platter: \(message)\n") }
        #expect(!fixture.exists("o"))
        #expect(try raw(of: "three.qcow2") == Self.disk)
    }

    @Test("the target is not made where it is a source, whatever the name")
    func targetIsSource() throws {
        let pairs = [
            ["data.qcow2", "data.qcow2"], ["-U", "three.qcow2", "./one.qcow2"],
            ["-U", "-n", "data.qcow2", "./data.qcow2"],
        ]
        for arguments in pairs {
            let outcome = try fixture.run(
                CommandFixture.platter, ["convert", "-O", "qcow2"] + arguments)
            #expect(outcome.status == 1)
        }
        #expect(try raw(of: "data.qcow2") == Self.disk)
        #expect(try raw(of: "three.qcow2") == Self.disk)
    }

    @Test("a failed conversion removes what it made, but nothing else")
    func removesTarget() throws {
        // The backing file is missing: the target is made, and cannot be opened.
        let failed = "platter convert -B nosuch -F raw -O qcow2 data.qcow2 o.qcow2"
        #expect(try fixture.shell(failed, linked: true).status == 1)
        #expect(!fixture.exists("o.qcow2"))
        try fixture.write("small.raw", [1, 2, 3])
        #expect(try fixture.platter("convert", "-n", "src.raw", "small.raw").status == 1)
        #expect(try fixture.read("small.raw") == [1, 2, 3])
    }

    @Test("the name of a protocol in the place of a format means plain bytes in its storage")
    func protocolAsFormat() throws {
        let made = try fixture.platter("create", "-f", "file", "made", "1M")
        #expect(made.output == "Formatting 'made', fmt=file size=1048576\n")
        try fixture.write("old", [UInt8](repeating: 1, count: 4096))
        try fixture.platter("convert", "-O", "file", "data.qcow2", "old")
        #expect(try fixture.read("old") == Self.disk)
        try fixture.platter("convert", "-f", "file", "-O", "qcow2", "old", "again.qcow2")
        #expect(try raw(of: "again.qcow2") == Self.disk)
        try fixture.platter("convert", "-C", "-f", "file", "-O", "raw", "old", "again.raw")
        #expect(try fixture.read("again.raw") == Self.disk)
        let refused = try fixture.platter("convert", "-c", "-O", "file", "data.qcow2", "new")
        #expect(refused.error == "platter: Compression not supported for this file format\n")
        #expect(!fixture.exists("new"))
    }

    static let signals: [(String, Int32)] = [("INT", 130), ("TERM", 143), ("HUP", 129)]

    @Test(
        "an interrupted conversion removes what it made, unless it was there", arguments: [false, true],
        signals)
    func interrupt(isThere: Bool, signal: (String, Int32)) throws {
        if isThere { try fixture.platter("create", "-q", "o.raw", "1M") }
        let outcome = try fixture.shell(
            """
            \(CommandFixture.poll)
            mkfifo progress
            set -m
            platter convert -p -r 20k -m 1 \(isThere ? "-n" : "") src.raw o.raw > progress & child=$!
            set +m
            # From the first progress on, the program takes signals.
            exec 3< progress; read -r -d ')' -u 3
            poll 'ls | grep -q ^o.raw'
            kill -\(signal.0) $child; wait $child
            """, linked: true)
        #expect(outcome.status == signal.1)
        #expect(outcome.error == "platter: The job was cancelled\n")
        #expect(try fixture.shell("ls | grep '^o.raw'").output == (isThere ? "o.raw\n" : ""))
    }

    @Test("what cannot be read ends the conversion, or becomes zeroes with --salvage")
    func salvage() throws {
        var random = SeededRandom(seed: 1)
        let text = (0..<196_608).map { _ in UInt8(random.number(in: 65..<75)) }
        try fixture.write("text.raw", text)
        try fixture.platter("convert", "-c", "-f", "raw", "-O", "qcow2", "text.raw", "hurt.qcow2")
        let map = try fixture.platter("map", "--output=json", "hurt.qcow2").output
        #expect(map.contains("\"compressed\": true"))
        // The middle of the three compressed clusters, which lie one behind the other at the end of the file.
        var bytes = try fixture.read("hurt.qcow2")
        let middle = bytes.count - 45_000
        bytes.replaceSubrange(middle..<middle + 2000, with: repeatElement(0xff, count: 2000))
        try fixture.write("hurt.qcow2", bytes)
        let failed = try fixture.platter("convert", "hurt.qcow2", "out.raw")
        #expect(failed.status == 1)
        #expect(failed.error.hasPrefix("platter: hurt.qcow2: error while reading at byte 0: "))
        #expect(!fixture.exists("out.raw"))
        let salvaged = try fixture.platter("convert", "--salvage", "hurt.qcow2", "out.raw")
        #expect(salvaged.status == 0)
        #expect(salvaged.error.hasPrefix("platter: warning: error while reading offset 65536: "))
        #expect(salvaged.error.hasSuffix("; 65536 bytes are taken as zeroes\n"))
        let expected = text[..<65536] + [UInt8](repeating: 0, count: 65536) + text[131_072...]
        #expect(try fixture.read("out.raw") == Array(expected))
        #expect(try fixture.platter("convert", "-q", "--salvage", "hurt.qcow2", "out.raw").text == "")
    }

    @Test("standard input and output carry raw disks")
    func pipes() throws {
        #expect(try raw(of: "data.qcow2") == Self.disk)
        let outcome = try fixture.shell(
            """
            cat src.raw | platter convert -f raw -O qcow2 - piped.qcow2 &&
            platter compare piped.qcow2 src.raw && platter convert -p piped.qcow2 - | cmp - src.raw
            """, linked: true)
        #expect(outcome.status == 0)
        #expect(outcome.output == "Images are identical.\n")
    }

    @Test("zeroes become holes, and -S 0 allocates all")
    func sparse() throws {
        try fixture.shell("platter convert src.raw s.raw; platter convert -S 0 src.raw f.raw", linked: true)
        let blocks = try fixture.shell("stat -c %b s.raw f.raw").output.split(separator: "\n").compactMap {
            Int($0)
        }
        #expect(try fixture.read("s.raw") == Self.disk)
        #expect(try fixture.read("f.raw") == Self.disk)
        #expect(blocks.count == 2 && blocks[0] * 512 < 200_000 && blocks[1] * 512 >= 1 << 20)
    }

    @Test(
        "a snapshot is read by id and by name",
        arguments: ["1", "s", "snapshot.id=1", "snapshot.name=s,snapshot.id=1"])
    func snapshot(selection: String) throws {
        try fixture.platter("snapshot", "-c", "s", "data.qcow2")
        let zeroes = [UInt8](repeating: 0, count: 1 << 20)
        try fixture.write("zero.raw", zeroes)
        try fixture.platter("convert", "-n", "-O", "qcow2", "zero.raw", "data.qcow2")
        #expect(try raw(of: "data.qcow2") == zeroes)
        try fixture.platter("convert", "-l", selection, "data.qcow2", "old.raw")
        #expect(try fixture.read("old.raw") == Self.disk)
    }

    @Test("several sources become one disk, and an overlay holds only its own")
    func concatenation() throws {
        try fixture.platter("convert", "-O", "qcow2", "src.raw", "data.qcow2", "both.qcow2")
        #expect(try raw(of: "both.qcow2") == Self.disk + Self.disk)
        try fixture.shell(
            "platter convert -B one.qcow2 -F qcow2 -O qcow2 two.qcow2 over.qcow2", linked: true)
        #expect(try raw(of: "over.qcow2") == Self.disk)
        let map = try fixture.platter("map", "--output=json", "over.qcow2").output
        #expect(!map.contains("\"depth\": 0"))
    }

    @Test("stream names its new backing file so that it is found", arguments: ["", "sub/"])
    func streamNames(folder: String) throws {
        try fixture.shell(
            """
            mkdir -p sub
            platter create -q -f qcow2 -b \(fixture.path("three.qcow2")) -B qcow2 \(folder)top.qcow2
            """, linked: true)
        // The chain is not in the overlay's folder.
        let any = "--open-policy=any"
        func bytes() throws -> [UInt8] {
            let top = "\(folder)top.qcow2"
            #expect(try fixture.platter(any, "convert", "-O", "raw", top, "out.raw").status == 0)
            return try fixture.read("out.raw")
        }
        let outcome = try fixture.platter(any, "stream", "-p", "-b", "one.qcow2", "\(folder)top.qcow2")
        #expect(outcome.status == 0, "\(outcome.error)")
        let info = try fixture.platter("info", "\(folder)top.qcow2").output
        #expect(info.contains("backing file: "))
        #expect(info.contains("one.qcow2"))
        #expect(try bytes() == Self.disk)
        #expect(try fixture.platter(any, "stream", "\(folder)top.qcow2").status == 0)
        #expect(try fixture.platter("info", "\(folder)top.qcow2").output.contains("backing file") == false)
        #expect(try bytes() == Self.disk)
    }

    @Test("commit tells of itself, empties the overlay, and keeps it with -d")
    func commit() throws {
        try fixture.platter("rebase", "-b", "", "three.qcow2")
        try fixture.platter("rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", "three.qcow2")
        let held = "\"depth\": 0, \"present\": true"
        #expect(try fixture.platter("map", "--output=json", "three.qcow2").output.contains(held))
        #expect(try fixture.platter("commit", "-d", "three.qcow2").output == "Image committed.\n")
        #expect(try fixture.platter("map", "--output=json", "three.qcow2").output.contains(held))
        #expect(try fixture.platter("commit", "-q", "three.qcow2").text == "")
        #expect(try fixture.platter("map", "--output=json", "three.qcow2").output.contains(held) == false)
        #expect(try raw(of: "two.qcow2") == Self.disk)
        #expect(try raw(of: "three.qcow2") == Self.disk)
    }
}
