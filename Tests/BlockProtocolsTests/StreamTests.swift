import BlockCore
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

@Suite struct StreamTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    @Test func standardOutputGetsSkippedSpaceAsZeroes() throws {
        let path = try scratch.file("out")
        let handle = try #require(FileHandle(forWritingAtPath: path))
        let driver = StandardOutputDriver(descriptor: handle.fileDescriptor)
        try driver.put([1, 2], at: 0)
        try driver.put([3], at: 4)
        try driver.writeZeroes(at: 6, count: 3, flags: .mayUnmap)
        try driver.flush()
        #expect(try driver.length() == 9)
        #expect(try scratch.contents("out") == [1, 2, 0, 0, 3, 0, 0, 0, 0])
        try driver.truncate(to: 600_000, preallocation: .off)
        #expect(try scratch.contents("out").count == 600_000)
        let back = failure { try driver.put([1], at: 5) }
        #expect(back?.kind == .unsupported)
        #expect(failure { _ = try driver.bytes(at: 0, 1) }?.kind == .unsupported)
        #expect(
            failure { try driver.writeZeroes(at: 600_000, count: 1, flags: .noFallback) }?.kind
                == .unsupported)
        #expect(try scratch.contents("out").count == 600_000)
    }

    @Test func standardOutputReportsAFullDevice() throws {
        let handle = try #require(FileHandle(forWritingAtPath: "/dev/full"))
        let driver = StandardOutputDriver(descriptor: handle.fileDescriptor)
        let error = failure { try driver.put([1], at: 10) }
        #expect(error?.kind == .noSpace)
        #expect(error?.errno == 28)
        #expect(error?.offset == 0)
    }

    @Test func aPipeIsSpooledSparsely() throws {
        var random = SeededRandom(seed: 11)
        let head = random.bytes(70_000)
        let bytes = head + [UInt8](repeating: 0, count: 4 << 20) + [7]
        let pipe = Pipe()
        let end = pipe.fileHandleForWriting
        let writer = Thread {
            end.write(Data(bytes))
            end.closeFile()
        }
        writer.start()
        let driver = try StandardInput.open(descriptor: pipe.fileHandleForReading.fileDescriptor)
        #expect(try driver.length() == bytes.count)
        #expect(try driver.bytes(at: 0, bytes.count) == bytes)
        #expect(try #require(driver.allocatedSize()) < 1 << 20)
        #expect(try driver.extent(at: 1 << 20, limit: 1 << 20).status == .zero(hostOffset: 1 << 20))
        // The file has no name that could stay behind.
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: "/var/tmp").allSatisfy {
                !$0.hasPrefix("platter-")
            })
    }

    /// Polls the kernel, which alone knows, until a thread of this process waits in it.
    private static func waitUntilBlocked(_ task: String) throws {
        let path = "/proc/\(task)/stat"
        // The name, in parentheses, precedes the state.
        while try String(contentsOfFile: path, encoding: .utf8).split(separator: ") ").last?.first != "S" {
            sched_yield()
        }
    }

    @Test func interruptedReadsGoOn() throws {
        // Without SA_RESTART, a blocked read fails with EINTR.
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        #expect(sigaction(SIGURG, &action, nil) == 0)
        let pipe = Pipe()
        let input = pipe.fileHandleForReading.fileDescriptor
        let output = pipe.fileHandleForWriting
        let reader = Monitor<(thread: pthread_t?, task: String)>((nil, ""))
        let result = Monitor<Result<FileDriver, any Error>?>(nil)
        // The test's own threads let no signals in.
        Thread {
            var mask = sigset_t()
            sigaddset(&mask, SIGURG)
            pthread_sigmask(SIG_UNBLOCK, &mask, nil)
            let task = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/thread-self")
            reader.withLock { $0 = (pthread_self(), task ?? "") }
            reader.notifyAll()
            let opened = Result { try StandardInput.open(descriptor: input) }
            result.withLock { $0 = opened }
            result.notifyAll()
        }.start()
        let thread = try #require(reader.wait(until: { $0.thread != nil }, then: { $0.thread }))
        for byte in UInt8(0)..<50 {
            try Self.waitUntilBlocked(reader.withLock { $0.task })
            pthread_kill(thread, SIGURG)
            output.write(Data([byte]))
        }
        output.closeFile()
        let driver = try #require(result.wait(until: { $0 != nil }, then: { $0 })).get()
        #expect(try driver.bytes(at: 0, 51) == Array(0..<50) + [0])
    }

    @Test func anEmptyPipeIsAnEmptyFile() throws {
        let pipe = Pipe()
        pipe.fileHandleForWriting.closeFile()
        let driver = try StandardInput.open(descriptor: pipe.fileHandleForReading.fileDescriptor)
        #expect(try driver.length() == 0)
    }

    @Test func aRegularFileIsReadDirectlyUnlessPartOfItIsRead() throws {
        let path = try scratch.file("in", [1, 2, 3, 4])
        let handle = try #require(FileHandle(forReadingAtPath: path))
        let whole = try StandardInput.open(descriptor: handle.fileDescriptor)
        #expect(try whole.identity == FileDriver(opening: path).identity)
        whole.close()
        #expect(try handle.read(upToCount: 1) == Data([1]))
        let rest = try StandardInput.open(descriptor: handle.fileDescriptor)
        #expect(try rest.identity != FileDriver(opening: path).identity)
        #expect(try rest.bytes(at: 0, 4) == [2, 3, 4, 0])
        #expect(try rest.length() == 3)
    }
}
