import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Standard output, buffered, and standard error, not buffered. Thread-safe.
final class Terminal: Sendable {
    private struct Output {
        var buffer: [UInt8] = []
        var failed = false
    }

    /// Standard output is written in pieces of at least this many bytes.
    private static let chunkBytes = 1 << 16

    private let output = Mutex(Output())
    /// Whether somebody watches standard output, so that lines must appear at once.
    let outputIsTerminal = isatty(STDOUT_FILENO) == 1
    let errorIsTerminal = isatty(STDERR_FILENO) == 1

    /// Appends `text` to standard output.
    func print(_ text: String) {
        var text = text
        text.withUTF8 { bytes in write(UnsafeRawBufferPointer(bytes)) }
    }

    /// Appends bytes to standard output.
    func print(_ bytes: [UInt8]) { bytes.withUnsafeBytes { write($0) } }

    /// Writes what is buffered for standard output. `false` when it could not be written, now or before.
    @discardableResult
    func flush() -> Bool {
        output.withLock { output in
            Self.drain(&output)
            return !output.failed
        }
    }

    /// Prints a line on standard error.
    func error(_ line: String) { writeError(line + "\n") }

    /// Writes text on standard error as it is.
    func writeError(_ text: String) {
        if outputIsTerminal { flush() }
        var text = text
        _ = text.withUTF8 { Self.writeAll(UnsafeRawBufferPointer($0), to: STDERR_FILENO) }
    }

    private func write(_ bytes: UnsafeRawBufferPointer) {
        output.withLock { output in
            output.buffer.append(contentsOf: bytes)
            if outputIsTerminal || output.buffer.count >= Self.chunkBytes { Self.drain(&output) }
        }
    }

    private static func drain(_ output: inout Output) {
        let written = output.buffer.withUnsafeBytes { writeAll($0, to: STDOUT_FILENO) }
        if !written { output.failed = true }
        output.buffer.removeAll(keepingCapacity: true)
    }

    private static func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Bool {
        var rest = bytes
        while rest.count > 0 {
            #if canImport(Glibc)
                let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
            #elseif canImport(Musl)
                let count = Musl.write(descriptor, rest.baseAddress, rest.count)
            #else
                let count = Darwin.write(descriptor, rest.baseAddress, rest.count)
            #endif
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return true
    }
}

extension Terminal {
    /// Prints why a command failed and answers its exit status.
    func report(_ failure: CommandFailure, program: String, command: CommandSpec? = nil) -> Int32 {
        let called = command.map { $0.title(program) } ?? program
        let prefix = failure.namesCommand ? called : program
        for message in failure.messages { error("\(prefix): \(message)") }
        for line in failure.details { error(line) }
        if failure.hint == .help { error("Try '\(called) --help' for more information") }
        return failure.status ?? command?.errorStatus ?? 1
    }
}
