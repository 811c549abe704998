import BlockTestSupport
import Foundation
import Testing

/// `map` of generated chains: ours is QEMU's, in both forms, whole and in part.
@Suite(.enabled(if: Peer.isExpected)) struct MapChainTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private func tool(_ name: String, _ arguments: [String]) throws -> CommandOutcome {
        try fixture.run(URL(filePath: "/usr/bin/\(name)"), arguments)
    }

    private func make(_ arguments: [String]) throws {
        let outcome = try tool("qemu-img", arguments)
        guard outcome.status == 0 else { throw Mismatch("\(arguments): \(outcome.text)") }
    }

    /// Data, zeroes with and without a place, and holes.
    private func work(_ name: String, _ format: String, _ size: Int, _ random: inout SeededRandom) throws {
        var commands: [String] = []
        for _ in 0..<random.number(in: 0..<6) {
            let unit = [512, 4096, 65536][random.number(in: 0..<3)]
            let offset = random.number(in: 0..<max(1, size / unit)) * unit
            let length = min(size - offset, (1 + random.number(in: 0..<4)) * unit) / 512 * 512
            guard length > 0 else { continue }
            let verb = ["write -P 7", "write -P 9", "write -z", "write -z -u", "discard"][
                random.number(in: 0..<5)]
            commands += ["-c", "\(verb) \(offset) \(length)"]
        }
        if !commands.isEmpty { _ = try tool("qemu-io", ["-f", format] + commands + [name]) }
    }

    /// - Returns: the top image, its format and its size.
    private func chain(_ random: inout SeededRandom) throws -> (name: String, format: String, size: Int) {
        var format = ["raw", "qcow2", "qed", "vmdk", "vdi", "qcow"][random.number(in: 0..<6)]
        var size = format == "vdi" ? 1 << 20 : [128, 256, 320, 513, 640][random.number(in: 0..<5)] << 10
        try make(["create", "-q", "-f", format, "0", "\(size)"])
        try work("0", format, size, &random)
        var name = "0"
        for layer in 1...(1 + random.number(in: 0..<3)) {
            let below = ["-b", name, "-F", format]
            format = ["qcow2", "qcow2", "qed"][random.number(in: 0..<3)]
            size = max(65536, size + [-131_072, -65536, 0, 65536, 102_400][random.number(in: 0..<5)])
            var options: [String] = []
            if format == "qcow2" {
                let kinds = [
                    "cluster_size=4096", "extended_l2=on", "compat=0.10", "data_file=data\(layer)",
                    "lazy_refcounts=on",
                ]
                options = ["-o", kinds[random.number(in: 0..<5)]]
            }
            name = "\(layer)"
            try make(["create", "-q", "-f", format] + options + below + [name, "\(size)"])
            try work(name, format, size, &random)
            guard format == "qcow2", random.number(in: 0..<2) == 0 else { continue }
            // Over a longer base the part between the old and the new size hides what lies below.
            let grown = size + 65536
            if try tool("qemu-img", ["resize", "-q", "-f", format, name, "\(grown)"]).status == 0 {
                size = grown
            }
            _ = try tool("qemu-img", ["snapshot", "-c", "s", name])
            try work(name, format, size, &random)
        }
        return (name, format, size)
    }

    @Test(.timeLimit(.minutes(5)), arguments: 1...8 as ClosedRange<UInt64>) func agree(_ seed: UInt64) throws
    {
        var random = SeededRandom(seed: seed)
        var top = try chain(&random)
        if seed % 5 == 0 {
            try make(["convert", "-c", "-O", "qcow2", "-f", top.format, top.name, "packed"])
            top = ("packed", "qcow2", top.size)
        }
        let part = [
            "-s", "\(random.number(in: 0..<top.size))", "-l", "\(1 + random.number(in: 0..<top.size))",
        ]
        for (form, more) in [("json", []), ("human", []), ("json", part), ("human", part)] {
            let arguments = ["map", "--output=\(form)", "-f", top.format] + more + [top.name]
            let theirs = try tool("qemu-img", arguments)
            let ours = try fixture.run(CommandFixture.platter, arguments)
            let text = ours.output.replacing(", \"compressed\": false", with: "")
                .replacing(", \"compressed\": true", with: "")
            #expect(text == theirs.output, "\(arguments)")
            #expect(ours.status == theirs.status, "\(arguments)")
        }
    }
}
