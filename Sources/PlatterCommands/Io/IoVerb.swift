import BlockCore

/// Why a command of the shell failed.
enum IoFailure: Error {
    /// It was called wrongly: its usage line is printed.
    case usage
    /// A line on standard output.
    case output(String)
    /// A line on standard error, after the program's name.
    case complaint(String, hint: String?)
    /// The reason has already been printed.
    case silent

    static func complaint(_ error: BlockError) -> IoFailure { .complaint(error.message, hint: error.hint) }
}

/// A command of the shell.
struct IoVerb: Sendable {
    enum Work: Sendable {
        /// Runs with or without an open image.
        case shell(@Sendable (IoShell, IoCall) throws -> Void)
        /// Runs on the open image's top node.
        case image(@Sendable (IoShell, BlockNode, IoCall) throws -> Void)
        /// Reads or writes as the guest does, also while a job gives the disk another top node.
        case disk(@Sendable (IoShell, BlockDevice, IoCall) throws -> Void)
    }

    var name: String
    var alias: String?
    /// The arguments in the usage line; `nil` for a command without any.
    var arguments: String?
    /// What it does, in a few words.
    var summary: String
    /// More lines for `help NAME`.
    var help: [String] = []
    /// The number of arguments; without an upper bound when `maximum` is `nil`.
    var minimum = 0
    var maximum: Int?
    /// Whether the image has to be writable.
    var writes = false
    /// Whether QEMU's program has no such command: then it is unknown under that program's name.
    var isOwn = false
    var work: Work

    var usage: String { name + (arguments.map { " \($0)" } ?? "") + " -- \(summary)" }

    /// Whether it runs on the open image.
    var needsImage: Bool {
        if case .shell = work { return false }
        return true
    }

    /// The complaint about that number of arguments; `nil` for one that is allowed.
    func complaint(aboutCount count: Int, calledAs word: String) -> String? {
        guard count < minimum || maximum.map({ count > $0 }) == true else { return nil }
        let expected =
            switch maximum {
            case nil: "at least \(minimum)"
            case minimum?: "\(minimum)"
            case let maximum?: "between \(minimum) and \(maximum)"
            }
        return "bad argument count \(count) to \(word), expected \(expected) arguments"
    }
}

/// A command as it was typed.
struct IoCall {
    var verb: IoVerb
    /// The name or alias by which the command was called.
    var word: String
    var arguments: [String]

    /// Takes the arguments apart as getopt does: a letter with `:` behind it in `letters` has a value.
    ///
    /// - Parameter complain: prints a line on standard error.
    func options(_ letters: String, _ complain: (String) -> Void) throws(IoFailure) -> IoOptions {
        var options = IoOptions()
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                options.operands += rest
                break
            }
            var bundle = argument.unicodeScalars[...]
            guard bundle.popFirst() == "-", !bundle.isEmpty else {
                options.operands.append(argument)
                continue
            }
            while let scalar = bundle.popFirst() {
                let letter = Character(scalar)
                guard letter != ":", let place = letters.firstIndex(of: letter) else {
                    complain("\(word): invalid option -- '\(letter)'")
                    throw .usage
                }
                options.flags.insert(letter)
                let next = letters.index(after: place)
                guard next < letters.endIndex, letters[next] == ":" else { continue }
                guard let value = bundle.isEmpty ? rest.popFirst() : String(bundle) else {
                    complain("\(word): option requires an argument -- '\(letter)'")
                    throw .usage
                }
                options.values[letter] = value
                bundle.removeAll()
            }
        }
        return options
    }
}

/// The options and operands of a command.
struct IoOptions {
    var flags: Set<Character> = []
    var values: [Character: String] = [:]
    var operands: [String] = []

    /// The limit on the bytes of one request.
    static let maximumBytes = 2_147_483_136
    private static let sectorBytes = 512

    func has(_ flag: Character) -> Bool { flags.contains(flag) }

    /// A size in bytes.
    static func size(_ text: String) throws(IoFailure) -> Int {
        let isNegative = text.hasPrefix("-")
        switch SizeParser.parse(text) {
        case .success(let bytes) where bytes <= UInt64(Int.max) && !isNegative: return Int(bytes)
        case .success, .failure(.outOfRange):
            if !isNegative { throw .output("Parsing error: argument too large -- \(text)") }
        case .failure(.malformed): break
        }
        throw .output("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- \(text)")
    }

    /// The value of an option as a size in bytes.
    func size(of letter: Character) throws(IoFailure) -> Int? {
        guard let text = values[letter] else { return nil }
        return try Self.size(text)
    }

    /// The byte of `-P`.
    func pattern() throws(IoFailure) -> UInt8? {
        guard let text = values["P"] else { return nil }
        guard let number = CLikeNumber.unsigned(text), number <= 255 else {
            throw .output("\(text) is not a valid pattern byte")
        }
        return UInt8(number)
    }

    /// The operands OFFSET and LENGTH.
    ///
    /// - Parameter limit: the end of the message about a length over ``maximumBytes``; `nil` allows any
    ///   length.
    func range(limit: String? = "") throws(IoFailure) -> IoSpan {
        guard operands.count == 2 else { throw .usage }
        let offset = try Self.size(operands[0])
        let count = try Self.size(operands[1])
        if let limit, count > Self.maximumBytes {
            throw .output("length cannot exceed \(Self.maximumBytes)\(limit), given \(operands[1])")
        }
        return IoSpan(offset: offset, count: count)
    }

    /// The operands OFFSET LENGTH..., the lengths added up.
    func vector() throws(IoFailure) -> IoSpan {
        guard operands.count >= 2 else { throw .usage }
        let offset = try Self.size(operands[0])
        var total = 0
        for text in operands.dropFirst() {
            let length = try Self.size(text)
            guard length <= Self.maximumBytes else {
                throw .output("Argument '\(text)' exceeds maximum size \(Self.maximumBytes)")
            }
            total += length
            guard total <= Self.maximumBytes else {
                throw .output("The total number of bytes exceed the maximum size \(Self.maximumBytes)")
            }
        }
        return IoSpan(offset: offset, count: total)
    }

    static func checkSectors(_ span: IoSpan) throws(IoFailure) {
        for (value, name) in [(span.offset, "offset"), (span.count, "count")] where value % sectorBytes != 0 {
            throw .output("\(value) is not a sector-aligned value for '\(name)'")
        }
    }

    func require(_ condition: Bool, _ message: String) throws(IoFailure) {
        if !condition { throw .output(message) }
    }
}
