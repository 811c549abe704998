import Foundation
import Testing

/// Runs QEMU's tools, which judge our locks. Where they are missing, tests that need them are skipped, but
/// not in CI.
enum QemuPeer {
    static let isThere: Bool =
        ProcessInfo.processInfo.environment["CI"] != nil
        || FileManager.default.fileExists(atPath: "/usr/bin/qemu-io")

    /// What a tool printed (both streams) and its exit status.
    struct Outcome {
        var text: String
        var status: Int32
    }

    static func run(_ tool: String, _ arguments: [String]) throws -> Outcome {
        let (process, output) = try start(tool, arguments)
        let text = String(decoding: output.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Outcome(text: text, status: process.terminationStatus)
    }

    /// Keeps an image open in `qemu-io` while `body` runs.
    static func holding(_ path: String, _ options: [String] = [], _ body: () throws -> Void) throws {
        let commands = ["-c", "flush", "-c", "sleep 20000"]
        let (process, output) = try start("qemu-io", options + commands + [path])
        defer {
            // It takes SIGTERM only after its sleep.
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            _ = output
        }
        try waitForLocks(of: path)
        try body()
    }

    private static func start(_ tool: String, _ arguments: [String]) throws -> (Process, FileHandle) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/\(tool)")
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return (process, pipe.fileHandleForReading)
    }

    /// Waits until somebody holds a lock on the file, at most ten seconds.
    private static func waitForLocks(of path: String) throws {
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        let inode = try #require(attributes[.systemFileNumber] as? Int)
        for _ in 0..<1000 {
            let locks = try String(contentsOfFile: "/proc/locks", encoding: .utf8)
            if locks.contains(":\(inode) ") { return }
            Thread.sleep(forTimeInterval: 0.01)
        }
        Issue.record("nobody locked \(path)")
    }
}
