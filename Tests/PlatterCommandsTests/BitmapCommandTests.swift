import BlockTestSupport
import Foundation
import Testing

/// `bitmap`, and bitmaps in the output of other commands.
@Suite struct BitmapCommandTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        for name in ["a", "c"] { try fixture.platter("create", "-q", "-f", "qcow2", "\(name).qcow2", "10M") }
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "10M")
        try fixture.platter("create", "-q", "-f", "qcow2", "large.qcow2", "20M")
        try fixture.write("r.raw", [UInt8](repeating: 0, count: 1 << 20))
        for line in ["--add a.qcow2 b0", "--add a.qcow2 old", "--add large.qcow2 big"] {
            try run("bitmap \(line)")
        }
    }

    @discardableResult
    private func run(_ line: String) throws -> CommandOutcome {
        try fixture.shell("platter \(line)", linked: true)
    }

    static let wrong: [(arguments: String, message: String)] = [
        (
            "a.qcow2 b0", "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
        ),
        ("--remove -g 1k a.qcow2 b0", "granularity only supported with --add"),
        ("--remove -b x a.qcow2 b0", "Merge bitmap source file only supported with --merge"),
        ("--merge x -F qcow2 a.qcow2 b0", "-F only supported with -b"),
        ("--add -f qcow2 --image-opts a.qcow2 b", "--image-opts and --format are mutually exclusive"),
        ("--add a.qcow2 b0", "Operation add on bitmap b0 failed: Bitmap already exists: b0"),
        (
            "--add -g 100 a.qcow2 x",
            "Operation add on bitmap x failed: Granularity must be power of 2 and at least 512"
        ),
        (
            "--add -g 4G a.qcow2 x",
            "Operation add on bitmap x failed: Granularity must be power of 2 and at least 512"
        ),
        ("--add -g 100x a.qcow2 x", "Invalid granularity specified: '100x'"),
        (
            "--add v2.qcow2 x",
            "Operation add on bitmap x failed: Can't make bitmap 'x' persistent in 'v2.qcow2': "
                + "Cannot store dirty bitmaps in qcow2 v2 files"
        ),
        (
            "--add -f raw r.raw x",
            "Operation add on bitmap x failed: Can't store persistent bitmaps to 'r.raw': "
                + "Operation not supported"
        ),
        ("--remove -f raw r.raw x", "Operation remove on bitmap x failed: Dirty bitmap 'x' not found"),
        ("--clear a.qcow2 x", "Operation clear on bitmap x failed: Dirty bitmap 'x' not found"),
        ("--enable a.qcow2 x", "Operation enable on bitmap x failed: Dirty bitmap 'x' not found"),
        ("--merge x a.qcow2 b0", "Operation merge on bitmap b0 failed: Dirty bitmap 'x' not found"),
        ("--merge b0 a.qcow2 x", "Operation merge on bitmap x failed: Dirty bitmap 'x' not found"),
        (
            "--merge b0 -b r.raw -F raw a.qcow2 old",
            "Operation merge on bitmap old failed: Dirty bitmap 'b0' not found"
        ),
        (
            "--merge big -b large.qcow2 a.qcow2 old",
            "Operation merge on bitmap old failed: Bitmaps are of different sizes (destination size is "
                + "10485760, source size is 20971520) and can't be merged"
        ),
    ]

    @Test("what cannot be done is refused with qemu-img's words", arguments: wrong)
    func refusals(arguments: String, message: String) throws {
        let outcome = try run("bitmap \(arguments)")
        #expect(outcome.error == "platter: \(message)\n" && outcome.output.isEmpty && outcome.status == 1)
    }

    @Test("two names are needed", arguments: ["--add a.qcow2", "--add a.qcow2 b c", "--add"])
    func operands(arguments: String) throws {
        let outcome = try run("bitmap \(arguments)")
        #expect(outcome.status == 1)
        #expect(outcome.error.hasPrefix("platter: Expecting image file name and bitmap name\n"))
    }

    @Test("actions are done in the order given, up to the first that fails")
    func order() throws {
        let many = "--add --remove --add --disable --clear --enable --disable"
        #expect(try run("bitmap -g 1M \(many) a.qcow2 t").status == 0)
        let end = "            name: t\n            granularity: 1048576\n"
        #expect(try list().hasSuffix("        [2]:\n            flags:\n" + end))
        let failing = try fixture.platter("bitmap", "--enable", "--add", "--remove", "a.qcow2", "t")
        #expect(failing.error == "platter: Operation add on bitmap t failed: Bitmap already exists: t\n")
        #expect(try list().hasSuffix("flags:\n                [0]: auto\n" + end))
        #expect(try fixture.platter("bitmap", "--disable", "--remove", "a.qcow2", "t").status == 0)
        #expect(try !list().contains("name: t\n"))
    }

    /// The part of `info` about bitmaps.
    private func list() throws -> String {
        let text = try fixture.platter("info", "a.qcow2").output
        let start = try #require(text.range(of: "    bitmaps:\n"))
        let end = try #require(text.range(of: "    refcount bits"))
        return String(text[start.lowerBound..<end.lowerBound])
    }

    @Test("options may have long names, and stand anywhere")
    func spellings() throws {
        let lines = [
            "--image-opts --add driver=qcow2,file.filename=a.qcow2 one",
            "a.qcow2 --add two --granularity=64k", "--add --gran 512 -f qcow2 a.qcow2 three",
            "--merge two --source-file a.qcow2 --source-format qcow2 c.qcow2 --add four",
        ]
        for line in lines.dropLast() {
            let outcome = try run("bitmap \(line)")
            #expect(outcome.text.isEmpty && outcome.status == 0, "\(line)")
        }
        // Merging comes before adding here, as it was given.
        let last = try run("bitmap \(lines[3])")
        #expect(
            last.error == "platter: Operation merge on bitmap four failed: Dirty bitmap 'four' not found\n")
    }

    @Test("info tells flags, name and granularity, in both forms")
    func info() throws {
        #expect(
            try list() == """
                    bitmaps:
                        [0]:
                            flags:
                                [0]: auto
                            name: b0
                            granularity: 65536
                        [1]:
                            flags:
                                [0]: auto
                            name: old
                            granularity: 65536

                """)
        #expect(
            try fixture.platter("info", "--output=json", "large.qcow2").output.contains(
                """
                            "bitmaps": [
                                {
                                    "flags": [
                                        "auto"
                                    ],
                                    "name": "big",
                                    "granularity": 65536
                                }
                            ],
                            "refcount-bits": 16,
                """))
    }

    @Test("measure tells what bitmaps take where both images can have them")
    func measure() throws {
        for (options, size) in [("-O qcow2", "327680"), ("-O qcow2 -o cluster_size=512", "2560")] {
            let outcome = try run("measure \(options) a.qcow2")
            #expect(outcome.output.hasSuffix("bitmaps size: \(size)\n"))
        }
        #expect(
            try fixture.platter("measure", "-O", "qcow2", "c.qcow2").output.hasSuffix("bitmaps size: 0\n"))
        for arguments in ["-O raw a.qcow2", "-O qcow2 v2.qcow2", "-O qcow2 -f raw r.raw"] {
            let outcome = try run("measure \(arguments)")
            #expect(outcome.status == 0 && !outcome.output.contains("bitmaps"))
        }
    }

    @Test("a bitmap keeps an image from going back to a snapshot, not from becoming one of version 2")
    func obstacles() throws {
        try fixture.shell("cp a.qcow2 old.qcow2")
        let amended = try fixture.platter("amend", "-o", "compat=0.10", "old.qcow2")
        #expect(amended.status == 0 && amended.error.contains("bitmap"), "\(amended.text)")
        #expect(try !fixture.platter("info", "old.qcow2").output.contains("bitmap"))
        #expect(try fixture.platter("snapshot", "-c", "s", "a.qcow2").status == 0)
        let applied = try fixture.platter("snapshot", "-a", "s", "a.qcow2")
        #expect(
            applied.error == "platter: Could not apply snapshot 's': Device has active dirty bitmaps\n")
        for name in ["b0", "old"] { try fixture.platter("bitmap", "--remove", "a.qcow2", name) }
        #expect(try fixture.platter("snapshot", "-a", "s", "a.qcow2").status == 0)
        #expect(try fixture.platter("check", "-q", "a.qcow2").status == 0)
    }
}
