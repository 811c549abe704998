import BlockTestSupport
import Testing

/// `platter io`: jobs with the guest's requests between.
@Suite(.timeLimit(.minutes(2))) struct IoJobTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try succeeds("create", "-q", "-f", "qcow2", "base", "4M")
        try succeeds("io", "-c", "write -q -P 1 0 2M", "base")
        try succeeds("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
        try succeeds("io", "-c", "write -q -P 2 1M 64k", "top")
    }

    private func platter(_ arguments: [String]) throws -> CommandOutcome {
        try fixture.run(CommandFixture.platter, arguments)
    }

    @discardableResult
    private func succeeds(_ arguments: String...) throws -> String {
        let outcome = try platter(arguments)
        #expect(outcome.status == 0, "\(arguments): \(outcome.text)")
        return outcome.output
    }

    /// Runs commands of the shell on `top`.
    private func io(_ commands: String...) throws -> CommandOutcome {
        try platter(["io"] + commands.flatMap { ["-c", $0] } + ["top"])
    }

    private static let checks = ["read -q -P 1 0 512k", "read -q -P 2 1M 64k", "read -q -P 3 512k 64k"]

    private func check(_ image: String, _ more: String...) throws {
        let commands = (Self.checks + more).flatMap { ["-c", $0] }
        let outcome = try platter(["io", "-r"] + commands + [image])
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    @Test func streamBetweenWrites() throws {
        let outcome = try io(
            "job start stream -p", "write -q -P 3 512k 64k", "job list", "job resume stream1", "job wait")
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("stream1 stream "))
        #expect(outcome.output.hasSuffix("job stream1: completed\n"))
        let info = try succeeds("info", "top")
        #expect(!info.contains("backing file"))
        try check("top")
    }

    @Test func mirrorGoesOnWithTheCopy() throws {
        let outcome = try io(
            "job start mirror -f raw -i m -s 100M copy", "write -q -P 3 512k 64k", "job complete m",
            "job wait m", "write -q -P 4 3M 64k")
        #expect(outcome.status == 0)
        try check("copy", "read -q -P 4 3M 64k")
        #expect(try platter(["io", "-r", "-c", "read -q -P 4 3M 64k", "top"]).status == 1)
    }

    @Test func commitGoesOnWithTheBase() throws {
        let outcome = try io(
            "job start commit", "write -q -P 3 512k 64k", "job complete commit1", "job wait",
            "write -q -P 5 3M 64k")
        #expect(outcome.status == 0)
        try check("base", "read -q -P 5 3M 64k")
        try succeeds("check", "-q", "base")
    }

    @Test func backupIsOfTheStart() throws {
        let outcome = try io(
            "write -q -P 3 512k 64k", "job start backup -f qcow2 copy", "write -q -P 6 0 4M", "job wait")
        #expect(outcome.status == 0)
        try check("copy")
    }

    @Test func anImageIsMadeBeside() throws {
        let outcome = try io("job start create -f vdi disk 8M", "job wait")
        #expect(outcome.status == 0)
        #expect(try succeeds("info", "disk").contains("file format: vdi"))
    }

    @Test(arguments: [
        ("job start nonsense", "Unknown job type 'nonsense'"), ("job wait j", "Job 'j' not found"),
        ("job frob", "job start TYPE"), ("job start stream -b nowhere", "Did not find 'nowhere'"),
        ("job start mirror -S half -f raw x", "does not accept value 'half'"),
        ("job start create -s 5 -f raw x 1M", "does not support a speed limit"),
    ])
    func mistakes(_ command: String, _ message: String) throws {
        let outcome = try io(command)
        #expect(outcome.status == 1)
        #expect(outcome.text.contains(message))
    }

    @Test func oneJobANode() throws {
        let outcome = try io("job start stream -p", "job start stream", "truncate 8M")
        #expect(outcome.status == 1)
        #expect(outcome.text.contains("in use by block job: stream"))
    }

    /// qemu-io has no jobs.
    @Test func unknownUnderTheNameOfQemu() throws {
        let outcome = try fixture.shell("qemu-io -c 'job list' top", linked: true)
        #expect(outcome.text.contains("command \"job\" not found"))
    }
}
