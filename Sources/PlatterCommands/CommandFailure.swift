import BlockCore

/// Why a command ends with an error.
struct CommandFailure: Error {
    /// Which "Try … --help" line follows the message.
    enum Hint {
        case none
        /// The subcommand's help, or the program's when no subcommand was recognised.
        case help
    }

    /// What is printed after the program's name, one element per line that gets the prefix. Empty: nothing.
    var messages: [String]
    /// Lines printed as they are, after the messages.
    var details: [String] = []
    /// Put between the program's name and the colon, as getopt does: `platter info: …`.
    var namesCommand = false
    var hint = Hint.none
    /// `nil` stands for what the command uses for errors, 1 for most.
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

    /// The message; of damage it has to say where.
    private static func naming(_ error: BlockError) -> String {
        guard error.kind == .corrupt || error.kind == .limit || error.kind == .noSpace, let path = error.path,
            !error.message.contains(PrintableText.shown(path))
        else {
            return error.message
        }
        return "\(PrintableText.shown(path)): \(error.message)"
    }

    /// Adds the name of `known` that may have been meant.
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
