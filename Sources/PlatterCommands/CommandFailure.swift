import BlockCore

/// Why a command ends with an error.
struct CommandFailure: Error {
    /// The "Try … --help" line that follows the message.
    enum Hint {
        case none
        /// The subcommand's help, or the program's when no subcommand was recognised.
        case help
    }

    /// The messages, each printed on a line of its own after the program's name. None for a failure that has
    /// already been reported.
    var messages: [String]
    /// Lines printed as they are, after the messages.
    var details: [String] = []
    /// Whether the command's name stands between the program's name and the colon, as in getopt's messages:
    /// `platter info: …`.
    var namesCommand = false
    var hint = Hint.none
    /// The exit status; `nil` for the command's own status of errors, which is mostly 1.
    var status: Int32?

    init(_ message: String, details: [String] = [], status: Int32? = nil) {
        messages = [message]
        self.details = details
        self.status = status
    }

    init(_ error: any Error) {
        switch error {
        case let failure as CommandFailure: self = failure
        case let error as BlockError:
            self.init(Self.naming(error), details: error.hint.map { [$0] } ?? [])
            if error.kind == .cancelled { status = SignalWatch.interruptedStatus }
        default: self.init("\(error)")
        }
    }

    /// The message, with the file's name where the error concerns one file of several and does not name it.
    private static func naming(_ error: BlockError) -> String {
        guard error.kind == .corrupt || error.kind == .limit || error.kind == .noSpace, let path = error.path,
            !error.message.contains(PrintableText.shown(path))
        else {
            return error.message
        }
        return "\(PrintableText.shown(path)): \(error.message)"
    }

    /// Adds a hint that names the most similar one of `known`, if there is one.
    mutating func suggest(_ name: String, among known: [String]) {
        if let hint = NearestName.hint(name, among: known) { details.append(hint) }
    }

    /// A mistake in how the command was called; ends with the "Try … --help" line.
    static func usage(_ message: String) -> CommandFailure {
        var failure = CommandFailure(message)
        failure.hint = .help
        return failure
    }
}
