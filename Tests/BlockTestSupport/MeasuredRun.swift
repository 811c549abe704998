import Foundation

/// What a program that has ended left behind, and what it took.
public struct MeasuredOutcome: Sendable, Decodable {
    /// The exit status; minus the signal's number for a program that one ended.
    public var status: Int32
    /// It took longer than it may and was ended.
    public var isLate: Bool
    /// The most memory that was resident at a time, in KiB.
    public var peakKiB: Int
    public var seconds: Double
    /// Standard output, its first MiB.
    public var output: String
    /// Standard error, its first MiB.
    public var error: String
}

/// Runs the built `platter` again and again, each time measured, one at a time.
///
/// A small process of its own starts the programs: Linux counts the peak memory of the process that makes
/// a child as the child's. Not thread-safe: one for each worker.
public final class MeasuredRunner {
    private struct Job: Encodable {
        var arguments: [String]
        var folder: String
        var seconds: Double
    }

    public struct Broken: Error {}

    private let process = Process()
    private let jobs = Pipe()
    private let answers = Pipe()
    private var unread: [UInt8] = []

    public init() throws {
        let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Fixtures/commands/measured_runs.py")
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["python3", "-B", script.path]
        var environment = ProcessInfo.processInfo.environment
        environment["SWIFT_BACKTRACE"] = "enable=no"
        process.environment = environment
        process.standardInput = jobs
        process.standardOutput = answers
        try ProcessGate.start(process)
    }

    deinit {
        try? jobs.fileHandleForWriting.close()
        process.waitUntilExit()
    }

    /// Runs `platter` in a folder; a program that takes more than `seconds` is ended.
    public func platter(
        _ arguments: [String], in folder: URL, seconds: Double
    ) throws -> MeasuredOutcome {
        let job = Job(
            arguments: [CommandFixture.platter.path] + arguments, folder: folder.path, seconds: seconds)
        try jobs.fileHandleForWriting.write(contentsOf: JSONEncoder().encode(job) + [0x0a])
        return try JSONDecoder().decode(MeasuredOutcome.self, from: Data(nextLine()))
    }

    private func nextLine() throws -> [UInt8] {
        while true {
            if let end = unread.firstIndex(of: 0x0a) {
                defer { unread.removeFirst(end + 1) }
                return Array(unread[..<end])
            }
            let more = answers.fileHandleForReading.availableData
            guard !more.isEmpty else { throw Broken() }
            unread += more
        }
    }
}
