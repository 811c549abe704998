import BlockTestSupport
import Foundation
import Testing

/// Standard output that nobody reads, that is full or closed, and signals that concern it.
@Suite struct StandardStreamTests: CommandSuite {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private static let full = "Could not write to standard output: No space left on device\n"
    private static let closed = "Could not write to standard output: Bad file descriptor\n"

    @Test("remarks that cannot be printed fail no command")
    func remarks() throws {
        try expect("qemu-img create -f qcow2 a.qcow2 1M >&-; echo $? >&2; test -s a.qcow2", 0, "", "0\n")
        try expect("qemu-img check -q a.qcow2", 0)
        try expect("qemu-img resize a.qcow2 +1M > /dev/full", 0)
        try expect("qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2", 0)
        try expect("qemu-img commit -p b.qcow2 > /dev/full", 0)
        try expect("qemu-img convert -p -O raw a.qcow2 a.raw > /dev/full; stat -c %s a.raw", 0, "2097152\n")
        try expect("qemu-img compare a.qcow2 a.raw > /dev/full", 0)
        try expect("qemu-img compare a.qcow2 a.raw >&-", 0)
    }

    @Test(
        "answers that cannot be printed are errors",
        arguments: [
            "info a.qcow2", "map a.qcow2", "check a.qcow2", "measure -O raw a.qcow2", "--help", "--version",
            "info --help", "snapshot -l a.qcow2", "bench -c 1 a.qcow2", "create -f qcow2 -o help",
        ])
    func answers(_ command: String) throws {
        try expect("platter create -q -f qcow2 a.qcow2 1M; platter snapshot -c s a.qcow2", 0)
        try expect("platter \(command) > /dev/full", 1, "", "platter: " + Self.full)
        try expect("platter \(command) >&-", 1, "", "platter: " + Self.closed)
    }

    @Test("compare's status 1 means that the disks differ, and nothing else")
    func compareStatus() throws {
        try expect("head -c 1M /dev/zero > a; cp a b; printf x > c", 0)
        try expect("platter compare --output=json -f raw a b > /dev/full", 2, "", "platter: " + Self.full)
        try expect("platter compare a c > /dev/full", 1)
        for wrong in ["a", "--nosuch a b", "--output=xml a b", "-F nosuch a b"] {
            #expect(try fixture.shell("platter compare \(wrong)", linked: true).status == 2, "\(wrong)")
        }
    }

    @Test("no image gets the number of a standard stream that was closed")
    func closedStreams() throws {
        try fixture.write("a.raw", [UInt8](repeating: 5, count: 65536))
        try expect("platter convert -f raw -O qcow2 a.raw a.qcow2 <&- >&- 2>&-", 0)
        try expect("platter compare -f raw -F qcow2 a.raw a.qcow2 2>&-", 0, "Images are identical.\n")
        try expect("platter info nosuch >&- 2>&-", 1)
        try expect("platter convert -f raw -O raw - b.raw <&-", 1, "", "platter: Bad file descriptor\n")
    }

    @Test("work goes on when the reader of its progress has gone")
    func readerHasGone() throws {
        try fixture.write("a.raw", [UInt8](repeating: 5, count: 8 << 20))
        try expect(
            """
            set -o pipefail
            qemu-img convert -p -r 8M -m 1 -f raw -O raw a.raw b.raw | head -c 10 > /dev/null
            echo ${PIPESTATUS[0]}; cmp a.raw b.raw
            """, 0, "0\n")
    }

    @Test("an answer whose reader has gone is an error, not a signal")
    func answerWithoutReader() throws {
        try expect("platter create -q -f raw a.raw 1M", 0)
        try expect(
            "mkfifo f; (exec 3< f) & exec 4> f; wait; platter info a.raw >&4", 1, "",
            "platter: Could not write to standard output: Broken pipe\n")
    }

    @Test("signals that are ignored from the start stay ignored", arguments: ["HUP", "INT", "TERM"])
    func ignoredSignals(_ name: String) throws {
        try fixture.write("a.raw", [UInt8](repeating: 5, count: 3 << 20))
        try expect(
            """
            mkfifo progress
            (trap '' \(name); exec platter convert -p -r 2M -m 1 -f raw -O raw a.raw b.raw) > progress &
            child=$!
            # The first progress comes when the program has looked at its signals.
            exec 3< progress; read -r -d ')' -u 3; kill -\(name) $child; wait $child; echo $?; cmp a.raw b.raw
            """, 0, "0\n")
    }

    @Test("a limit on the size of files is an error that can be read")
    func fileSizeLimit() throws {
        try fixture.write("a.raw", [UInt8](repeating: 5, count: 3 << 20))
        let outcome = try fixture.shell(
            "ulimit -f 1000; platter convert -f raw -O qcow2 a.raw b.qcow2", linked: true)
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("File too large"))
    }

    @Test("under the name qemu-img, progress on a terminal is what programs parse")
    func progressOnTerminal() throws {
        let outcome = try fixture.shell(
            "qemu-img create -q -f raw a 64M; script -qec 'qemu-img compare -f raw -p a a' /dev/null",
            linked: true)
        #expect(outcome.status == 0)
        #expect(outcome.output.hasPrefix("    (0.00/100%)\r"))
        #expect(outcome.output.contains("(100.00/100%)"))
    }
}
