import BlockTestSupport
import Foundation
import Testing

/// strace, which has system calls fail. Where it is missing, the tests are skipped, but not in CI.
enum Strace {
    static let isThere =
        ProcessInfo.processInfo.environment["CI"] != nil
        || FileManager.default.fileExists(atPath: "/usr/bin/strace")
}

/// Requests through the kernel's queues while the calls on them fail: strace makes them.
@Suite(.enabled(if: Strace.isThere), .timeLimit(.minutes(1)))
struct RequestQueueFaultTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    /// What fails, and whether the file can be opened all the same.
    struct Fault: Sendable, CustomTestStringConvertible {
        var engine: String
        var call: String
        var how: String
        var opens = true
        var testDescription: String { "\(call) \(how)" }
    }

    static let faults: [Fault] =
        ["EINTR", "EAGAIN", "EBUSY", "EBADF", "ENOMEM"].flatMap { code in
            ["1", "3", "2+"].map {
                Fault(engine: "-i io_uring", call: "io_uring_enter", how: "error=\(code):when=\($0)")
            }
        } + [
            Fault(engine: "-i io_uring", call: "io_uring_enter", how: "retval=1:when=2"),
            Fault(engine: "-i io_uring", call: "io_uring_setup", how: "error=ENOMEM:when=1", opens: false),
            Fault(engine: "-i native -t none", call: "io_submit", how: "error=EAGAIN:when=1"),
            Fault(engine: "-i native -t none", call: "io_submit", how: "error=EINVAL:when=2"),
            Fault(engine: "-i native -t none", call: "io_getevents", how: "error=EINTR:when=1+"),
            Fault(engine: "-i native -t none", call: "io_getevents", how: "error=EFAULT:when=2+"),
        ]

    @Test(arguments: faults) func everyByteIsInItsPlace(_ fault: Fault) throws {
        try fixture.write("u.raw", [UInt8](repeating: 0, count: 1 << 20))
        let usable = try fixture.shell("qemu-io \(fault.engine) -f raw -c 'read 0 4k' u.raw", linked: true)
        if usable.status != 0 { return }
        let commands = [
            "write -P 1 0 64k", "write -P 2 128k 64k", "read -P 0 64k 64k", "write -P 3 256k 64k",
            "read -P 1 0 64k", "read -P 2 128k 64k", "read -P 3 256k 64k",
        ]
        let line =
            "timeout -k 1 20 strace -f -o /dev/null -e trace=\(fault.call) "
            + "-e inject=\(fault.call):\(fault.how) qemu-io \(fault.engine) -f raw "
            + commands.map { "-c '\($0)'" }.joined(separator: " ") + " u.raw"
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == (fault.opens ? 0 : 1), "\(outcome.text)")
        #expect(!outcome.text.contains("Pattern verification failed"))
        var wanted = [UInt8](repeating: 0, count: 1 << 20)
        for (value, unit) in [(UInt8(1), 0), (2, 2), (3, 4)] where fault.opens {
            for index in unit << 16..<(unit + 1) << 16 { wanted[index] = value }
        }
        #expect(try fixture.read("u.raw") == wanted)
    }
}
