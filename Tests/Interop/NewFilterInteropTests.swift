import BlockTestSupport
import Foundation
import Testing

/// The filters with several nodes, and those that store in other ways: the same lines with our program and
/// with QEMU's tools print the same and leave the same bytes.
@Suite struct NewFilterInteropTests {
    let ours: CommandFixture
    let theirs: CommandFixture?

    private static let verify =
        "driver=blkverify,raw.filename=a.raw,test.driver=qcow2,test.file.filename=v.qcow2"
    private static let quorum = quorum(2)
    private static let log = "driver=blklogwrites,file.driver=raw,file.file.filename=a.raw,log.filename=log"
    private static let compress = "driver=compress,file.driver=qcow2,file.file.filename=n.qcow2"
    private static let reading = "driver=copy-on-read,file.driver=qcow2,file.file.filename=top.qcow2"
    private static let middle =
        "file.backing.driver=qcow2,file.backing.file.filename=mid.qcow2,file.backing.node-name=mid"
    private static let preallocate = "driver=preallocate,file.driver=file,file.filename=a.raw"

    private static func quorum(_ threshold: Int, _ count: Int = 3) -> String {
        (0..<count).reduce("driver=quorum,vote-threshold=\(threshold)") { text, index in
            let name = ["a", "b", "c"][index]
            return "\(text),children.\(index).driver=raw,children.\(index).file.filename=\(name).raw"
        }
    }

    init() throws {
        ours = try CommandFixture()
        theirs = Peer.isExpected ? try CommandFixture() : nil
        for (fixture, linked) in pairs {
            let made = try fixture.shell(
                """
                set -e; for n in a b c; do
                  qemu-img create -q -f raw $n.raw 1M; qemu-io -f raw -c 'write -q -P 5 0 128k' $n.raw; done
                qemu-img create -q -f qcow2 v.qcow2 1M; qemu-io -f qcow2 -c 'write -q -P 5 0 128k' v.qcow2
                qemu-img create -q -f qcow2 n.qcow2 1M; touch log
                qemu-img create -q -f qcow2 -b a.raw -F raw mid.qcow2
                qemu-io -f qcow2 -c 'write -q -P 6 0 64k' mid.qcow2
                qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
                """, linked: linked)
            guard made.status == 0 else { throw Mismatch(made.text) }
        }
    }

    private var pairs: [(CommandFixture, Bool)] {
        [(ours, true)] + (theirs.map { [($0, false)] } ?? [])
    }

    /// Runs a line with both; what the newer program adds to a map is left out.
    @discardableResult
    private func outcome(of line: String) throws -> CommandOutcome {
        let mine = try ours.shell(line, linked: true)
        guard let theirs else { return mine }
        let other = try theirs.shell(line)
        let output = mine.output.replacing(/, "compressed": (true|false)/, with: "")
        #expect(output == other.output, "\(line)")
        #expect(mine.error == other.error && mine.status == other.status, "\(line): \(mine.text)")
        return mine
    }

    private func sameFiles(_ names: String...) throws {
        guard let theirs else { return }
        for name in names { #expect(try ours.read(name) == theirs.read(name), "\(name)") }
    }

    static let refusals = [
        "driver=blkverify", "driver=blkverify,raw.filename=a.raw",
        "driver=blkverify,test.driver=qcow2,test.file.filename=v.qcow2", "\(verify),nosuch=1",
        "driver=quorum", "driver=quorum,vote-threshold=1", quorum(0), quorum(-1), quorum(4),
        quorum.replacing("vote-threshold=2,", with: ""), "\(quorum),read-pattern=foo", "\(quorum),nosuch=1",
        "\(quorum),blkverify=on", "\(quorum),rewrite-corrupted=maybe", "\(quorum),rewrite-corrupted=on",
        "\(quorum),children.3.file.filename=nosuch", "\(quorum),children.4.file.filename=a.raw",
        "\(quorum(1, 2)),blkverify=on", "\(quorum(2, 2)),blkverify=on,rewrite-corrupted=on",
        "driver=quorum,vote-threshold=1,children=a", "driver=quorum,vote-threshold=1,children.a=1",
        "driver=quorum,vote-threshold=1,children.0=1", "driver=blklogwrites", "\(log),nosuch=1",
        "driver=blklogwrites,file.driver=raw,file.file.filename=a.raw",
        "driver=blklogwrites,log.filename=log",
        "\(log),log-append=on,log-sector-size=4096", "\(log),log-sector-size=100",
        "\(log),log-sector-size=16777216", "\(log),log-super-update-interval=0",
        "driver=compress", "driver=compress,file.filename=n.qcow2",
        "driver=compress,file.driver=raw,file.file.filename=a.raw", "\(compress),nosuch=1",
        "driver=preallocate", "\(preallocate),prealloc-align=1000", "\(preallocate),nosuch=1",
        "driver=copy-on-read", reading, "\(reading),nosuch=1", "\(reading),read-only=on",
        "driver=null-co,latency-ns=-1", "driver=null-co,nosuch=1",
    ]

    @Test(arguments: refusals) func refusalsAreTheSame(_ options: String) throws {
        #expect(try outcome(of: "qemu-img info --image-opts \(options)").status == 1)
    }

    @Test(arguments: [
        "info blkverify:a.raw", "info blkverify:nosuch:v.qcow2", "info blkverify:a.raw:nosuch",
        "info null-co://abc", "info null-aio:x", "check --image-opts \(quorum)", "check -f raw null-co://",
        "resize --image-opts \(quorum) 2M", "resize --image-opts driver=null-co,size=1M 2M",
        "map --output=json --image-opts \(verify)", "map --output=json --image-opts \(quorum)",
        "map --output=json --image-opts driver=null-aio,read-zeroes=on,size=1M",
        "compare --image-opts \(quorum) driver=raw,file.filename=b.raw", "snapshot -l --image-opts \(quorum)",
    ]) func reportsAgree(_ arguments: String) throws { try outcome(of: "qemu-img \(arguments)") }

    /// The first lines; ours lists the nodes below them.
    @Test(arguments: [
        "blkverify:a.raw:v.qcow2", "--image-opts \(verify)",
        "--image-opts driver=blkverify,x-raw=a.raw,x-image=v.qcow2", "--image-opts \(quorum)",
        "--image-opts \(quorum(2, 2)),blkverify=on",
        "--image-opts \(quorum),rewrite-corrupted=on,read-pattern=fifo", "--image-opts \(log)",
        "--image-opts \(compress)", "--image-opts \(preallocate)", "null-aio://",
        #"'json:{"driver":"quorum","vote-threshold":1,"children":[{"driver":"raw","file":{"driver":"file","#
            + #""filename":"b.raw"}}]}'"#,
        #"'json:{"driver":"blkverify","raw":{"driver":"raw","offset":0,"file":{"driver":"file","filename":"#
            + #""a.raw"}},"test":{"driver":"qcow2","file":{"driver":"file","filename":"v.qcow2"}}}'"#,
        #"'json:{"driver":"null-co","size":1000,"latency-ns":100}'"#,
    ]) func infoBeginsTheSame(_ arguments: String) throws {
        let mine = try ours.shell("qemu-img info \(arguments)", linked: true)
        #expect(mine.status == 0, "\(mine.text)")
        guard let theirs else { return }
        let head = { (text: String) in text.split(separator: "\n").prefix(3).joined(separator: "\n") }
        let other = try theirs.shell("qemu-img info \(arguments)")
        #expect(head(mine.output) == head(other.output))
        let isUnknown = "disk size: unavailable"
        #expect(mine.output.contains("\n\(isUnknown)\n") == other.output.contains(isUnknown))
    }

    @Test func quorumsVoteAndRewrite() throws {
        let io = { (commands: String, options: String) in "qemu-io \(commands) --image-opts \(options)" }
        try outcome(
            of: io(
                "-c 'write -q -P 7 64k 64k' -c 'read -q -P 7 64k 64k' -c map -c length"
                    + " -c flush -c 'write -q -z 128k 64k' -c 'discard -q 0 64k' -c 'read -q -P 5 0 1'"
                    + " -c 'truncate 2M'",
                Self.quorum))
        let damage = { (name: String, byte: Int) in
            "qemu-io -f raw -c 'write -q -P \(byte) 70000 1' \(name).raw"
        }
        try outcome(of: damage("b", 9))
        try outcome(of: io("-c 'read -q -P 7 64k 64k'", Self.quorum))
        #expect(try outcome(of: "cmp -s a.raw b.raw").status == 1)
        try outcome(of: io("-c 'read -q -P 7 64k 64k'", Self.quorum + ",rewrite-corrupted=on"))
        #expect(try outcome(of: "cmp a.raw b.raw").status == 0)
        try outcome(of: damage("b", 9))
        try outcome(of: damage("a", 3))
        for more in ["", ",rewrite-corrupted=on", ",read-pattern=fifo"] {
            try outcome(of: io("-c 'read -q -P 7 64k 64k'", Self.quorum + more))
        }
        try outcome(of: io("-c 'read -q -P 7 70000 1'", Self.quorum(1)))
        try sameFiles("a.raw", "b.raw", "c.raw")
    }

    @Test func verifiedDisksStayTheSame() throws {
        let io =
            "qemu-io -f raw -c 'write -q -P 7 64k 64k' -c 'read -q -P 7 64k 64k' -c map -c length -c flush"
        try outcome(of: "\(io) blkverify:a.raw:v.qcow2")
        #expect(try outcome(of: "qemu-img compare a.raw v.qcow2").status == 0)
        try outcome(of: "qemu-io -f raw -c 'write -q -P 9 70000 1' a.raw")
        // QEMU's program ends with the message, ours fails the read.
        for (fixture, linked) in pairs {
            let read = try fixture.shell(
                "qemu-io -f raw -c 'read 66000 20000' blkverify:a.raw:v.qcow2", linked: linked)
            #expect(read.status == 1)
            #expect(
                read.text.contains(
                    "blkverify: read offset=66000 bytes=20000 contents mismatch at offset 70000\n"))
        }
        try sameFiles("a.raw")
    }

    @Test func readingStoresTheSame() throws {
        let io = { (commands: String, more: String) in
            "qemu-io \(commands) -c map --image-opts \(Self.reading)\(more)"
        }
        try outcome(of: io("-c 'read -q -P 6 0 64k' -c 'read -q 64k 128k'", ",bottom=mid," + Self.middle))
        try outcome(of: "qemu-img map --output=json top.qcow2")
        try outcome(of: io("-c 'read -q 512k 64k' -c 'read -q 192k 128k' -c 'write -q -P 8 700k 1k'", ""))
        try outcome(of: "qemu-img map --output=json top.qcow2")
        try outcome(of: "qemu-img map --output=json mid.qcow2")
        for more in [",bottom=nosuch", ",bottom=x,file.node-name=x"] {
            try outcome(of: io("-c 'read -q 0 1k'", more))
        }
        try outcome(of: "qemu-img resize --image-opts \(Self.reading) 2M")
        #expect(try outcome(of: "qemu-img check -q top.qcow2").status == 0)
        #expect(try outcome(of: "qemu-img compare top.qcow2 a.raw").status == 1)
    }

    @Test func compressionIsTheSame() throws {
        try outcome(
            of: "qemu-io -c 'write -q -P 5 0 64k' -c 'write -q -P 6 64k 4k' -c 'write -q -P 8 128k 128k'"
                + " -c 'write -q -P 9 1000000 48576' -c 'read -q -P 5 1000 10' -c 'write -q -z 512k 64k'"
                + " -c 'discard -q 512k 64k' --image-opts \(Self.compress)")
        try outcome(of: "qemu-img map --output=json n.qcow2")
        try outcome(of: "qemu-img check n.qcow2 | grep -v 'Image end offset'")
    }

    /// Ours is read by QEMU's append, and the other way round: both find the end of the log.
    @Test func logsAreContinued() throws {
        guard let theirs else { return }
        let step = { (command: String) in "qemu-io -c '\(command)' --image-opts \(Self.log),log-append=on" }
        let commands = ["write -q -P 1 0 4k", "write -q -P 2 1000 3000", "write -q -z 8k 4k"]
        for (index, command) in commands.enumerated() {
            for (fixture, linked) in [(ours, index % 2 == 0), (theirs, index % 2 == 1)] {
                let done = try fixture.shell(step(command), linked: linked)
                #expect(done.status == 0, "\(done.text)")
            }
        }
        try sameFiles("a.raw")
        let numbers = try [ours, theirs].map { fixture in
            try fixture.read("log").prefix(28).map { $0 }
        }
        #expect(numbers.allSatisfy { $0.starts(with: Array("rhswfsj\0".utf8)) })
    }
}
