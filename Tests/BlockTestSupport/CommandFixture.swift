import Foundation

/// What a program that has ended left behind.
public struct CommandOutcome: Sendable, Equatable {
    /// The exit status; 128 and more for a signal.
    public var status: Int32
    public var output: String
    public var error: String
    /// Standard output as it is.
    public var outputBytes: [UInt8]

    /// Standard output followed by standard error: what a person reads.
    public var text: String { output + error }
}

/// Runs the built `platter` and other programs in a temporary folder of their own.
///
/// The folder is removed with the fixture. Thread-safe.
public final class CommandFixture: Sendable {
    /// The temporary folder.
    public let folder: URL

    public struct NotBuilt: Error {
        public var path: String
    }

    public init() throws {
        // Whatever runs the tests may ignore them, and the program leaves ignored signals so.
        for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] { signal(number, SIG_DFL) }
        folder = FileManager.default.temporaryDirectory.appending(path: "platter-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    /// The program under test, beside the test bundle.
    public static let platter: URL = {
        let bundle = URL(filePath: CommandLine.arguments.first ?? "")
        var place = bundle.deletingLastPathComponent()
        for _ in 0..<6 {
            let candidate = place.appending(path: "platter")
            var isFolder: ObjCBool = false
            if FileManager.default.fileExists(atPath: candidate.path, isDirectory: &isFolder),
                !isFolder.boolValue
            {
                return candidate
            }
            place.deleteLastPathComponent()
        }
        return bundle.deletingLastPathComponent().appending(path: "platter")
    }()

    /// Runs `platter` with these arguments in the folder.
    @discardableResult
    public func platter(_ arguments: String..., input: [UInt8] = []) throws -> CommandOutcome {
        try run(Self.platter, arguments, input: input)
    }

    /// Runs the program found under that name in `PATH`.
    @discardableResult
    public func tool(_ name: String, _ arguments: String...) throws -> CommandOutcome {
        try run(URL(filePath: "/usr/bin/env"), [name] + arguments)
    }

    /// Runs a line of shell, in which `platter` and `qemu-img` are the program under test when `linked`.
    @discardableResult
    public func shell(_ line: String, linked: Bool = false) throws -> CommandOutcome {
        var environment = ProcessInfo.processInfo.environment
        if linked {
            let links = folder.appending(path: ".bin")
            try? FileManager.default.createDirectory(at: links, withIntermediateDirectories: true)
            for name in ["platter", "qemu-img", "qemu-io"] {
                try? FileManager.default.createSymbolicLink(
                    at: links.appending(path: name), withDestinationURL: Self.platter)
            }
            environment["PATH"] = "\(links.path):\(environment["PATH"] ?? "/usr/bin:/bin")"
        }
        return try run(URL(filePath: "/bin/bash"), ["-c", line], environment: environment)
    }

    /// Shell that waits until a command succeeds, at most ten seconds: `poll COMMAND`. Only for what another
    /// process does without a sign that a test could wait for.
    public static let poll =
        "poll() { for _ in {1..500}; do eval \"$1\" && return; sleep 0.02; done; return 1; }\n"

    /// The path of a file in the folder.
    public func path(_ name: String) -> String { folder.appending(path: name).path }

    /// Makes a file with these bytes.
    public func write(_ name: String, _ bytes: [UInt8]) throws {
        try Data(bytes).write(to: folder.appending(path: name))
    }

    /// The bytes of a file.
    public func read(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: folder.appending(path: name)))
    }

    public func exists(_ name: String) -> Bool {
        FileManager.default.fileExists(atPath: path(name))
    }

    /// Runs a program in the folder and waits for its end.
    public func run(
        _ program: URL, _ arguments: [String], input: [UInt8] = [], environment: [String: String]? = nil
    ) throws -> CommandOutcome {
        guard FileManager.default.isExecutableFile(atPath: program.path) else {
            throw NotBuilt(path: program.path)
        }
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        process.currentDirectoryURL = folder
        var variables = environment ?? ProcessInfo.processInfo.environment
        variables["LC_ALL"] = "C.UTF-8"
        process.environment = variables
        // Files, not pipes: no reader can fall behind.
        let names = ["in", "out", "err"].map { folder.appending(path: ".\($0)-\(UUID().uuidString)") }
        for name in names { try Data().write(to: name) }
        try Data(input).write(to: names[0])
        process.standardInput = try FileHandle(forReadingFrom: names[0])
        process.standardOutput = try FileHandle(forWritingTo: names[1])
        process.standardError = try FileHandle(forWritingTo: names[2])
        try ProcessGate.start(process)
        process.waitUntilExit()
        let output = [UInt8](try Data(contentsOf: names[1]))
        let error = try Data(contentsOf: names[2])
        for name in names { try FileManager.default.removeItem(at: name) }
        let signalled = process.terminationReason == .uncaughtSignal
        return CommandOutcome(
            status: process.terminationStatus + (signalled ? 128 : 0),
            output: String(decoding: output, as: UTF8.self), error: String(decoding: error, as: UTF8.self),
            outputBytes: output)
    }
}
