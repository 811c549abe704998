import BlockCore
import BlockFormats
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

/// One image, edited in place by Platter and by qemu-io in turn, with snapshots taken and applied by both.
@Suite(.serialized) struct AlternatingInteropTests {
    static let options = [
        "cluster_size=512", "cluster_size=4k,refcount_bits=2", "cluster_size=64k",
        "compat=0.10,cluster_size=4k",
        "lazy_refcounts=on,cluster_size=4k", "compression_type=zstd", "cluster_size=2M",
        "extended_l2=on,cluster_size=16k", "extended_l2=on",
    ]

    @Test(
        .timeLimit(.minutes(5)),
        arguments: [
            "data_file=data.raw", "data_file=data.raw,data_file_raw=on", "data_file=data.raw,extended_l2=on",
        ])
    func editsOfADataFile(options: String) throws {
        var image = try SharedImage(options: options, seed: 3)
        for round in 0..<8 {
            if round % 2 == 0 { try image.editWithPlatter() } else { try image.editWithPeer() }
            try image.judge(dataFile: options.contains("raw=on") ? "data.raw" : nil)
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: options, [1, 2])
    func editsInTurn(options: String, seed: Int) throws {
        var image = try SharedImage(options: options, seed: seed)
        for round in 0..<12 {
            if round % 2 == 0 { try image.editWithPlatter() } else { try image.editWithPeer() }
            if round % 3 == 0 { try image.changeSnapshots(byPeer: round % 2 == 0) }
            try image.judge()
        }
    }
}

/// An image and the bytes that it must show.
private struct SharedImage {
    private static let size = 2 << 20

    private let fixture = Result { try CommandFixture() }
    private var random: SeededRandom
    private var contents = [UInt8](repeating: 0, count: size)
    private var snapshots: [(name: String, contents: [UInt8])] = []
    private var count = 0

    init(options: String, seed: Int) throws {
        random = SeededRandom(seed: UInt64(seed))
        try must("qemu-img create -q -f qcow2 -o \(options) disk.qcow2 \(Self.size)")
    }

    @discardableResult
    private func must(_ script: String) throws -> CommandOutcome {
        let outcome = try fixture.get().shell("set -eu\nP=\(CommandFixture.platter.path)\n\(script)")
        try #require(outcome.status == 0, "\(outcome.output) \(outcome.error)\nin \(script)")
        return outcome
    }

    /// A range in whole sectors.
    private mutating func range() -> Range<Int> {
        let count = random.number(in: 1..<[4, 40, 400][random.number(in: 0..<3)]) * 512
        let start = random.number(in: 0..<(Self.size - count) / 512) * 512
        return start..<start + count
    }

    private mutating func fill(_ range: Range<Int>, _ byte: UInt8) {
        contents.replaceSubrange(range, with: repeatElement(byte, count: range.count))
    }

    mutating func editWithPlatter() throws {
        let opener = ImageOpener(
            registry: DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all))
        let path = try fixture.get().path("disk.qcow2")
        let node = try opener.open(path, format: "qcow2", settings: OpenSettings(readOnly: false))
        for _ in 0..<random.number(in: 1..<8) {
            let range = range()
            let byte = UInt8(random.number(in: 1..<256))
            switch random.number(in: 0..<4) {
            case 0:
                try node.writeZeroes(at: range.lowerBound, count: range.count)
                fill(range, 0)
            case 1: try node.flush()
            default:
                let bytes = [UInt8](repeating: byte, count: range.count)
                try node.write(bytes.span.bytes, at: range.lowerBound)
                fill(range, byte)
            }
        }
        try node.close()
    }

    mutating func editWithPeer() throws {
        var commands = ""
        for _ in 0..<random.number(in: 1..<8) {
            let range = range()
            let byte = random.number(in: 0..<256)
            let kind = byte == 0 ? "-z -u" : "-P \(byte)"
            commands += " -c 'write \(kind) \(range.lowerBound) \(range.count)'"
            fill(range, UInt8(byte))
        }
        try must("qemu-io -f qcow2 \(commands) disk.qcow2")
    }

    mutating func changeSnapshots(byPeer: Bool) throws {
        let program = byPeer ? "qemu-img" : "$P"
        if snapshots.count < 2 {
            count += 1
            try must("\(program) snapshot -c s\(count) disk.qcow2")
            snapshots.append(("s\(count)", contents))
        } else if random.number(in: 0..<2) == 0 {
            let chosen = snapshots[random.number(in: 0..<snapshots.count)]
            try must("\(program) snapshot -a \(chosen.name) disk.qcow2")
            contents = chosen.contents
        } else {
            let chosen = snapshots.remove(at: random.number(in: 0..<snapshots.count))
            try must("\(program) snapshot -d \(chosen.name) disk.qcow2")
        }
    }

    /// Both programs see the same bytes, in the snapshots too, and nothing to complain of.
    ///
    /// - Parameter dataFile: a file that must be the disk without any image.
    func judge(dataFile: String? = nil) throws {
        try must("qemu-img check -q disk.qcow2; $P check -q disk.qcow2")
        if let dataFile { #expect(try fixture.get().read(dataFile) == contents) }
        try compare("", contents)
        for snapshot in snapshots { try compare("-l \(snapshot.name)", snapshot.contents) }
    }

    private func compare(_ option: String, _ wanted: [UInt8]) throws {
        for program in ["qemu-img", "$P"] {
            try must("\(program) convert \(option) -f qcow2 -O raw disk.qcow2 out.raw")
            #expect(try fixture.get().read("out.raw") == wanted, "\(program) \(option)")
        }
    }
}
