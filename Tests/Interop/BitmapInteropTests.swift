import BlockCore
import BlockFormats
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

/// Bitmaps that Platter and QEMU's tools keep in one image in turn; QEMU tells their bits through qemu-nbd.
@Suite(.serialized, .enabled(if: Peer.isExpected)) struct BitmapInteropTests {
    static let images: [QemuImage.Options] = [
        QemuImage.Options(cluster: 65536, size: 8 << 20), QemuImage.Options(cluster: 512, size: 1 << 20),
        QemuImage.Options(cluster: 4096, size: (2 << 20) + 512, backing: 1 << 20),
        QemuImage.Options(cluster: 4096, size: 4 << 20, more: ["lazy_refcounts=on"]),
        QemuImage.Options(cluster: 2 << 20, size: 16 << 20),
    ]

    @Test(
        "both keep the bitmaps up to date, and see the same bits", .timeLimit(.minutes(5)), arguments: images,
        ["platter", "qemu-img"])
    func recordingInTurn(options: QemuImage.Options, maker: String) throws {
        let pair = try BitmapPair(options, madeBy: maker)
        for (index, granularity) in [512, 65536].enumerated() {
            let program = (index == 0) == (maker == "platter") ? "qemu-img" : "platter"
            try pair.must(program, "bitmap --add -g \(granularity) disk.qcow2 every\(granularity)")
        }
        var random = SeededRandom(seed: TestEffort.seed &+ UInt64(options.cluster))
        for round in 0..<6 {
            try pair.write(&random, byQemu: round % 2 == 0)
            try pair.judge()
        }
    }

    @Test("each understands what the other did to bitmaps", .timeLimit(.minutes(2)))
    func commands() throws {
        for (one, other) in [("platter", "qemu-img"), ("qemu-img", "platter")] {
            let pair = try BitmapPair(QemuImage.Options(size: 4 << 20), madeBy: other)
            try pair.must(one, "bitmap --add disk.qcow2 a")
            try pair.must(other, "bitmap --add -g 4k disk.qcow2 b")
            try pair.must("qemu-io", "-c 'write 100k 1k' disk.qcow2")
            try pair.must(one, "bitmap --disable disk.qcow2 a")
            try pair.must("qemu-io", "-c 'write 1M 64k' disk.qcow2")
            #expect(try pair.qemuRuns("a") == [65536..<131_072])
            #expect(try pair.qemuRuns("b") == [102_400..<106_496, 1_048_576..<1_114_112])
            try pair.must(other, "bitmap --add --disable --merge a --merge b disk.qcow2 both")
            try pair.must(one, "bitmap --clear --merge both disk.qcow2 b")
            #expect(try pair.qemuRuns("b") == [65536..<131_072, 1_048_576..<1_114_112])
            try pair.must(one, "create -q -f qcow2 other.qcow2 4M")
            try pair.must(one, "bitmap --add --merge b -b disk.qcow2 -F qcow2 other.qcow2 far")
            try pair.must(other, "bitmap --add --merge far -b other.qcow2 -F qcow2 disk.qcow2 back")
            #expect(try pair.qemuRuns("back") == pair.qemuRuns("b"))
            try pair.must(one, "resize -q disk.qcow2 5M")
            try pair.must(other, "resize -q --shrink disk.qcow2 1M")
            try pair.judge()
            for name in ["a", "b", "both", "back"] {
                try pair.must(name == "a" ? one : other, "bitmap --remove disk.qcow2 \(name)")
            }
            #expect(try pair.infos().isEmpty)
            try pair.judge()
        }
    }

    @Test("both programs tell the same of an image with bitmaps", .timeLimit(.minutes(2)))
    func info() throws {
        let pair = try BitmapPair(QemuImage.Options(size: 4 << 20), madeBy: "platter")
        try pair.must("platter", "bitmap --add disk.qcow2 a")
        try pair.must("platter", "bitmap --add --disable -g 1M disk.qcow2 'b \"é'")
        for option in ["", "--output=json"] {
            let texts = try ["platter", "qemu-img"].map { program in
                // 7.2 does not list child nodes.
                try pair.must(program, "info \(option) disk.qcow2").components(separatedBy: "bitmaps")[1]
                    .components(separatedBy: "refcount")[0]
            }
            #expect(texts[0] == texts[1])
        }
        for options in ["", "-o cluster_size=512", "-o cluster_size=2M", "-o compat=0.10"] {
            let measured = try ["platter", "qemu-img"].map { program in
                try pair.must(program, "measure -O qcow2 \(options) disk.qcow2")
                    .split(separator: "\n").filter { $0.hasPrefix("bitmaps") }
            }
            #expect(measured[0] == measured[1])
        }
    }

    @Test("what QEMU left in use is inconsistent to us, and the other way round", .timeLimit(.minutes(2)))
    func inUse() throws {
        let pair = try BitmapPair(QemuImage.Options(size: 4 << 20), madeBy: "qemu-img")
        try pair.must("qemu-img", "bitmap --add disk.qcow2 a")
        _ = try pair.fixture.shell("qemu-io -c 'write 0 64k' -c 'sigraise 9' disk.qcow2")
        #expect(try pair.infos().map(\.isInconsistent) == [true])
        let failed = try pair.fixture.platter("bitmap", "--clear", "disk.qcow2", "a")
        #expect(failed.status == 1)
        #expect(
            failed.error.hasPrefix(
                "platter: Operation clear on bitmap a failed: Bitmap 'a' is inconsistent and cannot be used\n"
            ))
        try pair.must("platter", "bitmap --remove disk.qcow2 a")
        try pair.must("platter", "bitmap --add disk.qcow2 ours")
        let node = try pair.open(readOnly: false)
        try node.write([UInt8](repeating: 1, count: 512).span.bytes, at: 0)
        try node.flush()
        try pair.must("cp", "disk.qcow2 killed.qcow2")
        try node.close()
        #expect(try pair.must("qemu-img", "info killed.qcow2").contains("in-use"))
        try pair.must("qemu-img", "bitmap --remove killed.qcow2 ours; qemu-img check -q killed.qcow2")
    }

    @Test("convert takes bitmaps along as qemu-img does", .timeLimit(.minutes(2)))
    func converting() throws {
        let pair = try BitmapPair(QemuImage.Options(size: 4 << 20), madeBy: "qemu-img")
        try pair.must("qemu-img", "bitmap --add disk.qcow2 a; qemu-img bitmap --add -g 512 disk.qcow2 b")
        try pair.must("qemu-io", "-c 'write 100k 1k' -c 'write 2M 1M' disk.qcow2")
        try pair.must("qemu-img", "bitmap --disable disk.qcow2 b")
        let wanted = (try pair.infos(), try pair.qemuRuns("a"), try pair.qemuRuns("b"))
        try pair.must("platter", "convert --bitmaps -O qcow2 -o cluster_size=4k disk.qcow2 out.qcow2")
        try pair.must("qemu-img", "check -q out.qcow2; mv out.qcow2 disk.qcow2")
        #expect(try pair.infos() == wanted.0)
        #expect(try pair.qemuRuns("a") == wanted.1 && pair.qemuRuns("b") == wanted.2)
        _ = try pair.fixture.shell("qemu-io -c 'write 0 64k' -c 'sigraise 9' disk.qcow2")
        let broken = try pair.fixture.platter(
            "convert", "--bitmaps", "-O", "qcow2", "disk.qcow2", "new.qcow2")
        #expect(
            broken.status == 1 && broken.error.hasPrefix("platter: Cannot copy inconsistent bitmap 'a'\n"))
        #expect(!pair.fixture.exists("new.qcow2"))
        try pair.must(
            "platter", "convert --bitmaps --skip-broken-bitmaps -O qcow2 disk.qcow2 new.qcow2 2>warnings.txt")
        #expect(
            try String(decoding: pair.fixture.read("warnings.txt"), as: UTF8.self)
                == "platter: warning: Skipping inconsistent bitmap 'a'\n"
                + "platter: warning: Skipping inconsistent bitmap 'b'\n")
    }
}

/// An image with bitmaps that both programs work on.
private struct BitmapPair {
    let fixture: CommandFixture
    private let size: Int

    init(_ options: QemuImage.Options, madeBy program: String) throws {
        fixture = try CommandFixture()
        size = options.size
        var below = ""
        if let backing = options.backing {
            try fixture.write("base.raw", Pattern.bytes(stamp: -1, at: 0, count: backing))
            below = "-b base.raw -F raw"
        }
        try must(program, "create -q -f qcow2 -o \(options.list) \(below) disk.qcow2 \(size)")
    }

    /// Runs a command, which must succeed, and answers its output.
    @discardableResult
    func must(_ program: String, _ arguments: String) throws -> String {
        let name = program == "platter" ? CommandFixture.platter.path : program
        let outcome = try ProcessGate.afterStarts {
            try fixture.shell("set -eu\n\(name) \(arguments)")
        } isLocked: {
            $0.text.contains("Failed to get")
        }
        try #require(outcome.status == 0, "\(program) \(arguments): \(outcome.text)")
        return outcome.output
    }

    func open(readOnly: Bool) throws -> BlockNode {
        let opener = ImageOpener(
            registry: DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all))
        return try ProcessGate.opening {
            try opener.open(
                fixture.path("disk.qcow2"), format: "qcow2", settings: OpenSettings(readOnly: readOnly))
        }
    }

    func infos() throws -> [BitmapInfo] {
        let node = try open(readOnly: true)
        defer { try? node.close() }
        return try node.bitmapKeeper().bitmaps()
    }

    /// What a bitmap marks, as qemu-nbd exports it: what is dirty is not "present".
    func qemuRuns(_ name: String) throws -> [Range<Int>] {
        let text = try must(
            "true",
            """

            rm -f socket ended
            mkfifo ended
            # With --fork it returns once the socket is there; the end of `ended` comes with the server's.
            qemu-nbd --fork -r -f qcow2 -B '\(name)' -k "$PWD/socket" disk.qcow2 >nbd.txt 2>&1 9>ended &
            exec 8<ended
            wait $!
            qemu-img map --output=json --image-opts \
            "driver=nbd,server.type=unix,server.path=$PWD/socket,x-dirty-bitmap=qemu:dirty-bitmap:\(name)"
            cat <&8
            """)
        var runs: [Range<Int>] = []
        for entry in try JSONDecoder().decode([MapEntry].self, from: Data(text.utf8)) where !entry.present {
            runs.append(entry.start..<entry.start + entry.length)
        }
        return runs
    }

    private struct MapEntry: Decodable {
        var start: Int
        var length: Int
        var present: Bool
    }

    func ourRuns(_ name: String) throws -> [Range<Int>] {
        let node = try open(readOnly: true)
        defer { try? node.close() }
        return try node.bitmapKeeper().bitmap(named: name).runs
    }

    /// Some writes, zeroings and discards.
    func write(_ random: inout SeededRandom, byQemu: Bool) throws {
        let ranges = (0..<4).map { _ in
            let offset = random.number(in: 0..<size / 512) * 512
            return offset..<min(size, offset + (1 + random.number(in: 0..<300)) * 512)
        }
        if byQemu {
            let commands = ranges.enumerated().map { index, range in
                "-c '\(index == 3 ? "write -z" : "write") \(range.lowerBound) \(range.count)'"
            }
            try must("qemu-io", "-f qcow2 \(commands.joined(separator: " ")) disk.qcow2")
            return
        }
        let node = try open(readOnly: false)
        for (index, range) in ranges.enumerated() {
            if index == 3 { try node.writeZeroes(at: range.lowerBound, count: range.count) }
            let bytes = [UInt8](repeating: 3, count: range.count)
            if index < 3 { try node.write(bytes.span.bytes, at: range.lowerBound) }
        }
        try node.close()
    }

    /// Both find the image sound and its bitmaps consistent, and see the same bits.
    func judge() throws {
        try must("qemu-img", "check -q disk.qcow2")
        try must("platter", "check -q disk.qcow2")
        for info in try infos() {
            #expect(!info.isInconsistent)
            #expect(try ourRuns(info.name) == qemuRuns(info.name))
        }
    }
}
