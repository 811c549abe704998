import BlockTestSupport
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
        let commands = Pipe()
        let (process, output) = try start("qemu-io", options + [path], input: commands)
        defer {
            try? commands.fileHandleForWriting.write(contentsOf: Data("quit\n".utf8))
            process.waitUntilExit()
        }
        // The prompt comes once the image is open.
        var text = ""
        while !text.contains("qemu-io> ") {
            let part = output.availableData
            try #require(!part.isEmpty, "qemu-io did not open \(path): \(text)")
            text += String(decoding: part, as: UTF8.self)
        }
        try body()
    }

    private static func start(
        _ tool: String, _ arguments: [String], input: Any = FileHandle.nullDevice
    ) throws -> (Process, FileHandle) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/\(tool)")
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = input
        try ProcessGate.start(process)
        return (process, pipe.fileHandleForReading)
    }
}
