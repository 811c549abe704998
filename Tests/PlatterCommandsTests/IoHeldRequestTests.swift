import BlockTestSupport
import Testing

/// Commands of the shell while requests are held or wait for each other, and what reopening may change.
@Suite struct IoHeldRequestTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "8M")
    }

    private func io(_ arguments: String...) throws -> CommandOutcome {
        let words = arguments.map { $0.hasPrefix("-") ? $0 : "'\($0)'" }.joined(separator: " ")
        return try fixture.shell("timeout 60 qemu-io \(words)", linked: true)
    }

    /// A command that has to wait for the held request must not keep anybody from letting that go on.
    @Test(arguments: [
        ("read -P 1 0 512", "read 512/512 bytes at offset 0"), ("readv 1k 512", "read 512/512"),
        ("write -P 2 0 512", "wrote 512/512 bytes at offset 0"), ("writev 4k 512", "wrote 512/512"),
        ("write -z 0 64k", "wrote 65536/65536"), ("write -b 1M 512", "wrote 512/512"),
        ("read -b 0 512", "read 512/512"), ("discard 0 64k", "discard 65536/65536"), ("truncate 9M", ""),
    ])
    func commandsGoOnBesideAHeldRequest(_ command: String, _ result: String) throws {
        let outcome = try io(
            "-c", "break write_aio A", "-c", "aio_write -P 1 0 512", "-c", "wait_break A", "-c", command,
            "-c",
            "resume A", "-c", "aio_flush", "-c", "length", "blkdebug::d.qcow2")
        #expect(outcome.status == 0, "\(outcome.text)")
        #expect(outcome.output.contains("Resuming request 'A'") && outcome.output.contains(result))
        #expect(outcome.output.hasSuffix(command == "truncate 9M" ? "9 MiB\n" : "8 MiB\n"))
        #expect(try fixture.platter("check", "d.qcow2").status == 0)
    }

    /// What ends later still counts for the exit status.
    @Test func lateFailuresCount() throws {
        let outcome = try io(
            "-c", "break write_aio A", "-c", "aio_write -P 1 0 512", "-c", "wait_break A", "-c",
            "read -P 7 0 512", "-c", "resume A", "-c", "aio_flush", "blkdebug::d.qcow2")
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("Pattern verification failed at offset 0, 512 bytes"))
    }

    /// Requests on one place are made one after the other, and many take no time for each other.
    @Test(.timeLimit(.minutes(1))) func manyRequestsOnOnePlace() throws {
        var lines = (0..<3000).map { "aio_write -q -P \($0 % 200) 0 4k\n" }.joined()
        lines += "aio_flush\nread -P 199 0 4k\n"
        let outcome = try fixture.platter("io", "d.qcow2", input: Array(lines.utf8))
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(outcome.output.contains("read 4096/4096 bytes at offset 0"))
    }

    @Test func zeroesOfMoreThanARequestMayHave() throws {
        try fixture.platter("create", "-q", "-f", "raw", "big.raw", "6G")
        let outcome = try io("-f", "raw", "-c", "aio_write -z 1G 3G", "-c", "aio_flush", "big.raw")
        #expect(outcome.status == 0 && outcome.output.contains("wrote 3221225472/3221225472 bytes"))
        #expect(try io("-f", "raw", "-c", "aio_write 0 3G", "big.raw").status == 1)
    }

    @Test func patternFilesMayBeLong() throws {
        try fixture.shell("head -c 70M /dev/zero | tr '\\0' 'x' > long; printf abc > short")
        #expect(try io("-c", "write -s long 0 4k", "-c", "read -P 120 0 4k", "d.qcow2").status == 0)
        let short = try io("-c", "write -s short 0 512", "-c", "read -v 0 16", "d.qcow2")
        #expect(short.output.contains("61 62 63 61 62 63"), "\(short.text)")
        #expect(try io("-c", "write -s missing 0 512", "d.qcow2").status == 1)
    }

    // MARK: Reopening

    @Test(arguments: [["-r", "-s", "d.qcow2"], ["-c", "open -r -s d.qcow2"]])
    func aTemporarySnapshotThatIsReadOnlyNeverBecomesTheImage(_ opening: [String]) throws {
        let before = try fixture.read("d.qcow2")
        for change in ["reopen -w", "reopen -o read-only=off"] {
            let words = (opening + ["-c", change, "-c", "write -P 9 0 64k"]).map { "'\($0)'" }
            let outcome = try fixture.shell("qemu-io \(words.joined(separator: " "))", linked: true)
            #expect(outcome.status == 1, "\(outcome.text)")
            #expect(try fixture.read("d.qcow2") == before)
        }
    }

    @Test(arguments: [
        ("reopen -o driver=raw", "Cannot change the option 'driver'"),
        ("reopen -o filename=x", "Cannot change the option 'filename'"),
        ("reopen -o file.filename=x", "Cannot change the option 'filename'"),
        ("reopen -w -o read-only=on", "Cannot set both -r/-w and 'read-only'"),
        ("reopen -c none -o cache.direct=on", "Cannot set both -c and the cache options"),
    ])
    func reopeningChangesNoFileAndNoDriver(_ command: String, _ message: String) throws {
        let outcome = try io("-c", command, "-c", "write -P 5 0 512", "d.qcow2")
        #expect(outcome.status == 1 && outcome.error == "qemu-io: \(message)\n", "\(outcome.text)")
        let info = try fixture.platter("info", "d.qcow2")
        #expect(info.output.contains("file format: qcow2"))
    }

    @Test func reopeningWithOptionsKeepsTheImage() throws {
        let outcome = try io(
            "-c", "write -P 5 0 512", "-c", "reopen -o lazy-refcounts=on", "-c", "read -P 5 0 512", "-c",
            "reopen -r -c none", "-c", "write 0 512", "d.qcow2")
        #expect(
            outcome.status == 1 && outcome.error == "qemu-io: Block node is read-only\n", "\(outcome.text)")
        #expect(outcome.output.contains("read 512/512 bytes at offset 0"))
    }

    @Test func reopeningReplacesWhatItWouldContradict() throws {
        let outcome = try io(
            "-c", "reopen -o cache-size=1M", "-c", "reopen -o l2-cache-size=512k", "-c",
            "reopen -o refcount-cache-size=128k", "-c", "reopen -o overlap-check=constant", "-c",
            "reopen -o overlap-check.template=cached", "-c", "length", "d.qcow2")
        #expect(outcome.status == 0 && outcome.error == "", "\(outcome.text)")
        let refused = try io(
            "-c", "reopen -o cache-size=1M", "-c", "reopen -o cache-size=1M,l2-cache-size=2M", "d.qcow2")
        #expect(
            refused.status == 1 && refused.error == "qemu-io: l2-cache-size may not exceed cache-size\n",
            "\(refused.text)")
    }

    @Test func aNamedDriverIsNoGuess() throws {
        try fixture.platter("create", "-q", "-f", "raw", "t.raw", "1M")
        let outcome = try io("-c", "open -o driver=raw t.raw", "-c", "length")
        #expect(outcome.status == 0 && outcome.error == "" && outcome.output == "1 MiB\n", "\(outcome.text)")
        #expect(try io("-c", "open t.raw").error.contains("probing guessed raw"))
    }

    @Test func aZeroByteEndsALine() throws {
        let outcome = try fixture.platter("io", "d.qcow2", input: Array("\0\nlength\0x\n".utf8))
        #expect(outcome.status == 0 && outcome.output.contains("8 MiB"), "\(outcome.text)")
    }
}
