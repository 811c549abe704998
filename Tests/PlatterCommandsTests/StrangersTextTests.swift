import BlockCore
import BlockTestSupport
import Testing

@testable import PlatterCommands

/// Names from images, and of files, that would steer a terminal or pass for a line of ours.
@Suite struct StrangersTextTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private static let name = "a\u{1B}]0;owned\u{07}\u{1B}[2J\u{9B}31m\u{202E}\rz\nx: y"
    private static let lines = [
        "qemu-img info e.qcow2", "qemu-img snapshot -l e.qcow2", "qemu-img info o.qcow2",
        "qemu-img convert -O raw o.qcow2 x", "qemu-img check o.qcow2", "qemu-img map o.qcow2",
        "qemu-img info --backing-chain o.qcow2", "qemu-img info \"$n\"", "qemu-img info \"$n.none\"",
        "qemu-img snapshot -d \"$n\" o.qcow2", "qemu-img bitmap --remove e.qcow2 \"$n\"",
        "qemu-img create -f raw \"$n.new\" 1M", "qemu-img map \"$n\"",
        "qemu-img rebase -b \"$n\" -F raw e.qcow2",
        "qemu-io -c info e.qcow2", "qemu-img amend -f qcow2 -o \"$n=1\" e.qcow2",
    ]

    @Test func nothingSteersATerminalOrFakesALine() throws {
        let setup = """
            n=\(shellQuoted(Self.name))
            qemu-img create -q -f qcow2 e.qcow2 1M && qemu-img snapshot -c "$n" e.qcow2
            qemu-img bitmap --add e.qcow2 "$n.b"
            qemu-img create -q -f qcow2 -u -b "$n.missing" -F raw o.qcow2 1M
            qemu-img create -q -f raw "$n" 1M

            """
        for line in Self.lines {
            let outcome = try fixture.shell(setup + line, linked: true)
            let steering = outcome.text.unicodeScalars.filter {
                ($0.value < 0x20 && $0 != "\n") || (0x7F..<0xA0).contains($0.value) || $0.value == 0x202E
            }
            #expect(steering.isEmpty, "\(line): \(outcome.text.debugDescription)")
            #expect(!("\n" + outcome.text).contains("\nx: y"), "\(line): \(outcome.text)")
        }
        let json = try fixture.shell(setup + "qemu-img info --output=json e.qcow2", linked: true).output
        #expect(json.contains(#""name": "a\u001B]0;owned\u0007\u001B[2J\u009B31m\u202E\rz\nx: y""#))
    }

    private func shellQuoted(_ text: String) -> String { "'" + text + "'" }

    @Test func onlyWhatDoesHarmIsEscaped() {
        let harmless = "disk \u{E9}\u{4E2D}\u{1F4BE} a\\b 'c' \u{2026}\u{201D}"
        #expect(PrintableText.shown(harmless) == harmless)
        #expect(PrintableText.shown("a\tb\nc\r\u{0}") == #"a\tb\nc\r\x00"#)
        #expect(PrintableText.shown("a\tb\nc\r", keepsLines: true) == "a\tb\nc\\r")
        #expect(
            PrintableText.shown("\u{7F}\u{85}\u{2028}\u{2066}\u{FEFF}")
                == #"\x7f\u{85}\u{2028}\u{2066}\u{feff}"#)
        let error = BlockError(.io, "no '\u{1B}[2J'", hint: "one\ntwo\r").prefixed("a\nb")
        #expect(error.message == #"a\nb: no '\x1b[2J'"#)
        #expect(error.hint == "one\ntwo\\r")
    }

    /// All watches of the process hear of a signal, and none that has ended.
    @Test func signalsReachEveryWatch() {
        let heard = Counts()
        let first = SignalWatch(
            onInterrupt: { heard.add("first") }, onStatusRequest: { heard.add("first asked") })
        let second = SignalWatch(
            onInterrupt: { heard.add("second") }, onStatusRequest: { heard.add("second asked") })
        SignalWatch.deliver(10)
        SignalWatch.deliver(15)
        // The same signal, sent twice: were it a second one, it would end this process.
        SignalWatch.deliver(15)
        #expect(SignalWatch.interruptedStatus == 143)
        first.stop()
        SignalWatch.deliver(10)
        second.stop()
        SignalWatch.deliver(10)
        #expect(heard.all == ["first": 1, "second": 1, "first asked": 1, "second asked": 2])
    }

    private final class Counts: Sendable {
        private let counts = Monitor([String: Int]())
        var all: [String: Int] { counts.withLock { $0 } }
        func add(_ name: String) { counts.withLock { $0[name, default: 0] += 1 } }
    }
}
