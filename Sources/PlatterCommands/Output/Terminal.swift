import BlockCore
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Standard output, buffered, and standard error, not buffered. Thread-safe.
///
/// An *answer* is the output that the command is run for (`info`, `map`); a *remark* is any other (`Image
/// resized.`, progress). The command fails when an answer cannot be written, but not for a remark. After the
/// first failed write, nothing more is written to standard output.
final class Terminal: Sendable {
    private struct Output {
        var buffer: [UInt8] = []
        /// Whether the buffer holds part of an answer.
        var holdsAnswer = false
        /// The errno of the first write that failed.
        var failure: Int32?
        var lostAnswer = false
    }

    /// The number of buffered bytes from which on standard output is written.
    private static let chunkBytes = Int.kib(64)

    private let output = Mutex(Output())
    /// Whether standard output is a terminal, so that lines have to appear at once.
    let outputIsTerminal = isatty(STDOUT_FILENO) == 1
    let errorIsTerminal = isatty(STDERR_FILENO) == 1

    /// Appends an answer to standard output. Control characters other than line feeds and tabs are escaped,
    /// as in all text printed here, since names may come from strangers.
    func print(_ text: String) { write(PrintableText.shown(text, keepsLines: true), isAnswer: true) }

    /// Appends bytes of an answer to standard output.
    func print(_ bytes: [UInt8]) { bytes.withUnsafeBytes { write($0, isAnswer: true) } }

    /// Appends a remark to standard output.
    func remark(_ text: String) { write(PrintableText.shown(text, keepsLines: true), isAnswer: false) }

    /// Appends text of our own to standard output without escaping: it moves the cursor.
    func steer(_ text: String, isAnswer: Bool = false) { write(text, isAnswer: isAnswer) }

    /// Writes the buffered bytes to standard output.
    func flush() { output.withLock { Self.drain(&$0) } }

    /// Writes the buffered bytes, and returns why that failed; `nil` if all of them were written.
    func lostAnswer() -> String? {
        output.withLock { output in
            Self.drain(&output)
            guard output.lostAnswer, let failure = output.failure else { return nil }
            return HostErrors.text(failure)
        }
    }

    /// Prints a line on standard error.
    func error(_ line: String) { writeError(PrintableText.shown(line, keepsLines: true) + "\n") }

    /// Writes text on standard error without escaping.
    func writeError(_ text: String) {
        if outputIsTerminal { flush() }
        Self.withBytes(of: text) { _ = Self.writeAll($0, to: STDERR_FILENO) }
    }

    private func write(_ text: String, isAnswer: Bool) {
        Self.withBytes(of: text) { write($0, isAnswer: isAnswer) }
    }

    /// Runs `body` on the text's bytes; names that are not UTF-8 are the bytes that they stand for.
    private static func withBytes(of text: String, _ body: (UnsafeRawBufferPointer) -> Void) {
        guard text.isPlain else { return text.rawBytes.withUnsafeBytes(body) }
        var text = text
        text.withUTF8 { body(UnsafeRawBufferPointer($0)) }
    }

    private func write(_ bytes: UnsafeRawBufferPointer, isAnswer: Bool) {
        guard bytes.count > 0 else { return }
        output.withLock { output in
            output.buffer.append(contentsOf: bytes)
            if isAnswer { output.holdsAnswer = true }
            if outputIsTerminal || output.buffer.count >= Self.chunkBytes { Self.drain(&output) }
        }
    }

    private static func drain(_ output: inout Output) {
        if output.failure == nil {
            output.failure = output.buffer.withUnsafeBytes { writeAll($0, to: STDOUT_FILENO) }
        }
        if output.failure != nil && output.holdsAnswer { output.lostAnswer = true }
        output.holdsAnswer = false
        output.buffer.removeAll(keepingCapacity: true)
    }

    /// Writes all bytes. Answers the errno of the write that failed; `nil` when none did.
    private static func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Int32? {
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
            guard count > 0 else { return count < 0 ? errno : EIO }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return nil
    }
}

extension Terminal {
    /// Prints why a command failed and returns its exit status.
    func report(_ failure: CommandFailure, program: String, command: CommandSpec? = nil) -> Int32 {
        let called = command.map { $0.title(program) } ?? program
        let prefix = failure.namesCommand ? called : program
        for message in failure.messages { error("\(prefix): \(PrintableText.shown(message))") }
        for line in failure.details { error(line) }
        if failure.hint == .help { error("Try '\(called) --help' for more information") }
        return failure.status ?? command?.errorStatus ?? 1
    }
}
