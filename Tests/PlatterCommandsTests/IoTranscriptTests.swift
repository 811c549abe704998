import BlockTestSupport
import Foundation
import Testing

/// Replays a recorded session of qemu-io 10.2 through a link of that name.
@Suite struct IoTranscriptTests {
    private static let fixture = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Fixtures/commands/qemu-io-10.2.txt")

    @Test func replaysTheRecordedSession() throws {
        let fixture = try CommandFixture()
        try fixture.shell("qemu-img create -q -f qcow2 a.qcow2 1M && truncate -s 1M a.raw", linked: true)
        var entries: [(command: String, expected: String)] = []
        for line in try String(contentsOf: Self.fixture, encoding: .utf8).components(separatedBy: "\n") {
            if line.hasPrefix("$ ") {
                entries.append((String(line.dropFirst(2)), ""))
            } else if !entries.isEmpty {
                entries[entries.count - 1].expected += line + "\n"
            }
        }
        try #require(entries.count > 35)
        for (command, expected) in entries {
            let outcome = try fixture.shell("( \(command)\n) 2>&1; echo \"[exit $?]\"", linked: true)
            #expect(Self.normal(outcome.output) == Self.normal(expected), "$ \(command)")
        }
    }

    /// Without times and rates.
    static func normal(_ text: String) -> String {
        var text = text.trimmingCharacters(in: .newlines)
        let rate = #"; [0-9X:.]+( sec)? \(\S+( [KMGT]iB| bytes)?/sec and \S+ ops/sec\)"#
        for (pattern, replacement) in [
            (rate, "; RATE"), (#"(?m)^([0-9]+,1),[0-9:.]+,[0-9.]+,[0-9.]+$"#, "$1,RATE"),
        ] {
            text = text.replacingOccurrences(of: pattern, with: replacement, options: .regularExpression)
        }
        return text
    }

    /// Commands that qemu-io 7.2 knows too; both begin with equal images.
    @Test(
        arguments: [
            [
                "write 0 64k", "read -v 0 20", "read -P 0xcd -s 100 -l 5 0 512", "map", "alloc 0 2M",
                "alloc 1",
            ],
            [
                "read -s 5 0 512", "read -l 5 0 512", "read -P 1 -s 600 0 512", "read -P 1 -l 600 0 512",
                "length",
            ],
            [
                "read -x 0 512", "read -P", "read 0", "read 0 1 2", "read -- -1 512", "read 0 512x",
                "read 0 3G",
            ],
            [
                "write -b -z 0 512", "write -z -P 1 0 512", "write -u 0 512", "write -n 0 512",
                "write -zn 0 64k",
            ],
            [
                "write -s missing 0 512", "write -f -c 0 512", "write -c 1 64k", "write 2M 512",
                "discard 2M 512",
            ],
            [
                "write 1 513", "readv -v 0 100 20 3", "writev 0 1G 1G 1G", "readv 0 x", "read 0 1536",
                "read 0 0",
            ],
            ["write -P 5 0 192k", "discard 64k 64k", "read -P 0 64k 64k", "map", "write -zu 0 64k", "map"],
            [
                "alloc", "map 1", "length 2", "truncate x", "truncate -m foo 1M", "truncate 2M", "length",
                "sleep x",
            ],
            [
                "open x", "close", "read 0 512", "open -z x", "open -t foo x", "open -d foo x",
                "open -i foo x",
            ],
            [
                "break a b", "resume a", "remove_break a", "help nosuch", "nosuch", "reopen -r -w",
                "reopen -c foo",
            ],
            [
                "aio_write -P 3 0 64k", "aio_flush", "aio_read -P 4 0 512", "aio_flush", "aio_read 2M 512",
                "aio_flush",
            ],
            ["aio_write -z 0 64k 64k", "aio_write -u 0 512", "aio_write -i 0 512", "aio_read -i 0 512"],
            ["reopen -r", "write 0 512", "reopen -w", "write 0 512", "quit", "length"],
        ])
    func answersAsQemuIo(_ commands: [String]) throws {
        let fixture = try CommandFixture()
        let arguments = commands.map { "-c '\($0)'" }.joined(separator: " ")
        var told: [String] = []
        for isOurs in [true, false] {
            try fixture.shell("rm -f d.qcow2; qemu-img create -q -f qcow2 d.qcow2 1M")
            // Standard error first, so that the order of the two does not matter.
            let outcome = try fixture.shell(
                "qemu-io \(arguments) d.qcow2 2>err; s=$?; cat err; echo $s", linked: isOurs)
            let check = try fixture.shell(
                "qemu-img check -q d.qcow2 || echo damaged; qemu-img dd if=d.qcow2 of=x bs=1M; cksum <x")
            told.append(Self.withoutLetters(Self.normal(outcome.output)) + check.output)
        }
        #expect(told[0] == told[1])
    }

    /// Usage lines of 10.2 have the letter `r`, and summaries are our own.
    private static func withoutLetters(_ text: String) -> String {
        text.components(separatedBy: "\n").map { line in
            guard let dashes = line.range(of: " -- "), line.contains("[-") else { return line }
            return line[..<dashes.lowerBound].replacingOccurrences(of: "r", with: "")
        }.joined(separator: "\n")
    }
}
