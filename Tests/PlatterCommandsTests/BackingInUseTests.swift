import BlockTestSupport
import Testing

/// Which commands go on while another program writes to a backing file, as QEMU's do.
@Suite(.timeLimit(.minutes(1))) struct BackingInUseTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    /// Runs lines of shell while a program has `base`, of that format, open for writing.
    private func whileInUse(_ format: String, _ lines: String) throws -> CommandOutcome {
        let setup = """
            set -e
            qemu-img create -q -f \(format) base 1M
            qemu-img create -q -f qcow2 -b base -F \(format) o.qcow2
            cp base other; mkfifo commands output
            qemu-io -f \(format) base < commands > output & exec 9> commands 8< output
            # The prompt comes once the image is open.
            read -r -d '>' -u 8
            set +e

            """
        return try fixture.shell(setup + lines + "\nexec 9>&-; wait", linked: true)
    }

    /// Answers the status of each line, one below the other.
    private func statuses(_ format: String, _ lines: [String]) throws -> [String] {
        let text = lines.map { "\($0) > log 2>&1; echo $?" }.joined(separator: "\n")
        return try whileInUse(format, text).output.split(separator: "\n").map { String($0) }
    }

    private static let without = [
        "qemu-img create -f qcow2 -b base -F FMT n.qcow2",
        "qemu-img create -f qcow2 -b base -F FMT n.qcow2 2M",
        "qemu-img create -f qcow2 -b o.qcow2 -F qcow2 n.qcow2", "qemu-img create -f qed -b base -F FMT n.qed",
        "qemu-img bitmap --add o.qcow2 b", "qemu-img bitmap --disable o.qcow2 b",
        "qemu-img bitmap --remove o.qcow2 b", "qemu-img snapshot -l o.qcow2", "qemu-img info o.qcow2",
        "qemu-img rebase -u -b other -F FMT o.qcow2", "qemu-img rebase -u -b base -F FMT o.qcow2",
        "qemu-img map -U o.qcow2", "qemu-img convert -U -O raw o.qcow2 n.raw",
    ]
    private static let reading = [
        "qemu-img map o.qcow2", "qemu-img measure -O raw o.qcow2", "qemu-io -r -c 'read 0 512' o.qcow2",
        "qemu-img check o.qcow2",
    ]
    private static let always = [
        "qemu-img convert -O raw o.qcow2 n.raw", "qemu-io -f FMT -c 'write 0 512' base",
    ]

    @Test(arguments: ["qcow2", "raw"]) func onlyWhatReadsTheBackingFileMinds(_ format: String) throws {
        let lines = (Self.without + Self.reading + Self.always).map { $0.replacing("FMT", with: format) }
        let wanted =
            Self.without.map { _ in "0" } + Self.reading.map { _ in format == "raw" ? "0" : "1" }
            + Self.always.map { _ in "1" }
        #expect(try statuses(format, lines) == wanted)
    }

    /// A differencing format keeps of its parent which one it is.
    @Test(arguments: ["vmdk", "vpc", "vhdx"]) func anOverlayIsMadeInTheBaseSFormat(_ format: String) throws {
        let line = "qemu-img create -f \(format) -b base -F \(format) n.\(format)"
        #expect(try statuses(format, [line]) == ["0"])
    }

    /// What the system answers for a lock decides: a file system without locks goes without, all else fails.
    @Test(
        .enabled(if: Strace.isThere),
        arguments: [
            ("ENOLCK", 0), ("EOPNOTSUPP", 0), ("ENOSYS", 0), ("EINVAL", 0), ("EAGAIN", 1), ("EACCES", 1),
            ("EIO", 1), ("EPERM", 1),
        ]) func onlyAFileSystemWithoutLocksGoesWithout(_ code: String, _ status: Int32) throws
    {
        try fixture.write("d.raw", [UInt8](repeating: 0, count: 4096))
        let strace = "strace -f -o /dev/null -e trace=fcntl -e inject=fcntl:error=\(code) qemu-io"
        let plain = try fixture.shell("\(strace) -f raw -c 'write -P 7 0 512' d.raw", linked: true)
        #expect(plain.status == status, "\(plain.text)")
        #expect(try fixture.read("d.raw")[0] == (status == 0 ? 7 : 0))
        #expect(plain.error.contains("Failed to get \"consistent read\" lock") == (status == 1))
        #expect(plain.error.contains("Is another process using") == ["EAGAIN", "EACCES"].contains(code))
        let options = "driver=raw,file.driver=file,file.filename=d.raw,file.locking=on"
        let strict = try fixture.shell(
            "\(strace) -c 'write -P 8 0 512' --image-opts \(options)", linked: true)
        #expect(strict.status == 1)
        #expect(try fixture.read("d.raw")[0] != 8)
    }
}
