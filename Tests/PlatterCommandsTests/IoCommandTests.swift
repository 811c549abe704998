import BlockTestSupport
import Testing

/// Requests that overlap in time, signals, and what bench does.
@Suite struct IoCommandTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
    }

    private func io(_ image: String, _ commands: String...) throws -> CommandOutcome {
        let list = commands.map { "-c '\($0)'" }.joined(separator: " ")
        return try fixture.shell("timeout 60 qemu-io \(list) \(image)", linked: true)
    }

    /// The program's own `sleep`: none of its commands waits for one request only.
    @Test func heldRequestsEndInTheOrderInWhichTheyAreLetGo() throws {
        let outcome = try io(
            "blkdebug::d.qcow2", "break write_aio A", "aio_write -P 1 0 512", "wait_break A",
            "break write_aio B", "aio_write -P 2 128k 512", "wait_break B", "aio_write -P 3 256k 512",
            "sleep 300", "resume B", "sleep 300", "resume A", "aio_flush", "read -P 1 0 512",
            "read -P 2 128k 512", "read -P 3 256k 512")
        #expect(outcome.status == 0, "\(outcome.text)")
        let lines = outcome.output.split(separator: "\n").filter { !$0.contains(" ops; ") }
        #expect(
            lines.prefix(7) == [
                "blkdebug: Suspended request 'A'", "blkdebug: Suspended request 'B'",
                "wrote 512/512 bytes at offset 262144", "blkdebug: Resuming request 'B'",
                "wrote 512/512 bytes at offset 131072", "blkdebug: Resuming request 'A'",
                "wrote 512/512 bytes at offset 0",
            ])
    }

    @Test func closingLetsHeldRequestsGo() throws {
        let outcome = try io(
            "blkdebug::d.qcow2", "break cluster_alloc A", "aio_write -P 1 0 512", "wait_break A", "close")
        #expect(outcome.status == 0 && outcome.output.contains("wrote 512/512"), "\(outcome.text)")
        #expect(try io("d.qcow2", "read -P 1 0 512").status == 0)
    }

    @Test func aBreakpointThatNobodyCanMeetIsNoEndlessWait() throws {
        let outcome = try io(
            "blkdebug::d.qcow2", "break write_aio A", "wait_break A", "resume A", "break x A")
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("no request is under way"))
        #expect(outcome.output.contains("Could not resume request: No such file or directory"))
        #expect(outcome.output.contains("Could not set breakpoint: No such file or directory"))
    }

    @Test func rulesMakeRequestsFail() throws {
        let options = "driver=qcow2,file.driver=blkdebug,file.image.filename=d.qcow2"
        let rule = "file.inject-error.0.event=write_aio,file.inject-error.0.iotype=write"
        let outcome = try fixture.platter(
            "io", "--image-opts",
            "\(options),\(rule),file.inject-error.0.errno=28,file.inject-error.0.once=on",
            "-c", "write 0 64k", "-c", "write -P 4 0 64k")
        #expect(outcome.status == 1)
        #expect(outcome.output.hasPrefix("write failed: No space left on device\nwrote 65536/65536"))
        #expect(try io("d.qcow2", "read -P 4 0 64k").status == 0)
        #expect(try fixture.platter("check", "d.qcow2").status == 0)
    }

    @Test func theThrottleCanBeAskedFor() throws {
        let options = "driver=qcow2,file.driver=throttle,file.file.filename=d.qcow2,file.limits.bps-total=1M"
        let outcome = try fixture.platter("io", "--image-opts", options, "-c", "write 0 1M", "-c", "length")
        #expect(outcome.status == 0, "\(outcome.text)")
        // Of 1 MiB a tenth passes at once.
        #expect(!outcome.output.contains("; 00.0"), "\(outcome.output)")
    }

    @Test func signalsAndCrashes() throws {
        #expect(try fixture.shell("qemu-io -c 'sigraise 9' d.qcow2; exit $?", linked: true).status == 137)
        #expect(try fixture.shell("qemu-io -c abort d.qcow2; exit $?", linked: true).status == 134)
    }

    @Test func readsCommandsFromStandardInput() throws {
        let outcome = try fixture.platter("io", "d.qcow2", input: Array("length\nnosuch\nq\nlength\n".utf8))
        #expect(outcome.output == "platter> 1 MiB\nplatter> platter> ")
        #expect(outcome.error == "command \"nosuch\" not found\n")
        #expect(outcome.status == 1)
    }

    @Test func temporarySnapshotsAndCopyOnRead() throws {
        try fixture.platter("io", "-c", "write -P 1 0 64k", "d.qcow2")
        let before = try fixture.read("d.qcow2")
        let kept = try fixture.platter("io", "-s", "-c", "write -P 9 0 1k", "-c", "read -P 9 0 1k", "d.qcow2")
        #expect(kept.status == 0, "\(kept.text)")
        #expect(try fixture.read("d.qcow2") == before)
        try fixture.platter("create", "-q", "-f", "qcow2", "-b", "d.qcow2", "-B", "qcow2", "o.qcow2")
        let copied = try fixture.platter("io", "-C", "-c", "read -P 1 0 512", "-c", "alloc 0 128k", "o.qcow2")
        #expect(copied.output.hasSuffix("65536/131072 bytes allocated at offset 0 bytes\n"), "\(copied.text)")
    }

    @Test(arguments: ["threads", "io_uring"]) func benchWritesWhatItSays(_ engine: String) throws {
        let outcome = try fixture.platter(
            "bench", "-w", "-i", engine, "-c", "8", "-d", "3", "-s", "4k", "-S", "64k", "-o", "4k",
            "--pattern",
            "7", "--flush-interval", "4", "d.qcow2")
        if engine != "threads", outcome.error.contains("cannot be used here") { return }
        #expect(outcome.status == 0, "\(outcome.text)")
        #expect(
            outcome.output.hasPrefix(
                "Sending 8 write requests, 4096 bytes each, 3 in parallel (starting at offset 4096, "
                    + "step size 65536)\nSending flush every 4 requests\nRun completed in "))
        for number in 0..<8 {
            let start = 4096 + number * 65536
            let (before, after) = (start - 4096, start + 4096)
            let checks = ["read -P 0 \(before) 4k", "read -P 7 \(start) 4k", "read -P 0 \(after) 4k"]
            for check in checks { #expect(try io("d.qcow2", check).status == 0, "\(check)") }
        }
        #expect(try io("d.qcow2", "read -P 0 512k 512k").status == 0)
        #expect(try fixture.platter("check", "d.qcow2").status == 0)
    }

    @Test func benchTellsOfFailures() throws {
        let outcome = try fixture.platter("bench", "-q", "-o", "2M", "d.qcow2")
        #expect(outcome.status == 1 && outcome.error == "platter: Failed request: Input/output error\n")
        #expect(outcome.output == "")
        let json = try fixture.platter("bench", "-c", "5", "--output", "json", "d.qcow2")
        #expect(json.status == 0 && json.output.contains("\"requests\": 5,"))
    }
}
