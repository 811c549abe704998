import BlockCore

/// Why a command of the shell did not do what it should.
enum IoFailure: Error {
    /// It was called wrongly: its usage line is the answer.
    case usage
    /// A line on standard output.
    case told(String)
    /// A line on standard error, after the program's name.
    case complaint(String, hint: String?)
    /// Everything has been said.
    case silent

    static func complaint(_ error: BlockError) -> IoFailure { .complaint(error.message, hint: error.hint) }
}

/// A command of the shell.
struct IoVerb: Sendable {
    enum Work: Sendable {
        /// Can do without an open image.
        case shell(@Sendable (IoShell, IoCall) throws -> Void)
        case image(@Sendable (IoShell, BlockNode, IoCall) throws -> Void)
    }

    var name: String
    var alias: String?
    /// What may follow the name; `nil` when nothing ever does.
    var arguments: String?
    /// What it does, in a few words.
    var summary: String
    /// More lines for `help NAME`.
    var help: [String] = []
    /// How many words may follow; no upper bound when `maximum` is `nil`.
    var minimum = 0
    var maximum: Int?
    /// Whether the image has to be writable.
    var writes = false
    var work: Work

    var usage: String { name + (arguments.map { " \($0)" } ?? "") + " -- \(summary)" }

    /// What is wrong with that number of words; `nil` when nothing is.
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
    /// The name or alias that was used.
    var word: String
    var arguments: [String]

    /// Sorts the words as getopt does: a letter with `:` behind it in `letters` takes a value.
    ///
    /// - Parameter complain: gets a line for standard error.
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

    /// What one request may transfer at most, in bytes.
    static let maximumBytes = 2_147_483_136
    private static let sectorBytes = 512

    func has(_ flag: Character) -> Bool { flags.contains(flag) }

    /// A size in bytes.
    static func size(_ text: String) throws(IoFailure) -> Int {
        let isNegative = text.hasPrefix("-")
        switch SizeParser.parse(text) {
        case .success(let bytes) where bytes <= UInt64(Int.max) && !isNegative: return Int(bytes)
        case .success, .failure(.outOfRange):
            if !isNegative { throw .told("Parsing error: argument too large -- \(text)") }
        case .failure(.malformed): break
        }
        throw .told("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- \(text)")
    }

    /// The value of a letter as a size.
    func size(of letter: Character) throws(IoFailure) -> Int? {
        guard let text = values[letter] else { return nil }
        return try Self.size(text)
    }

    /// The byte of `-P`.
    func pattern() throws(IoFailure) -> UInt8? {
        guard let text = values["P"] else { return nil }
        guard let number = CLikeNumber.unsigned(text), number <= 255 else {
            throw .told("\(text) is not a valid pattern byte")
        }
        return UInt8(number)
    }

    /// The operands OFFSET and LENGTH.
    ///
    /// - Parameter limit: what follows "cannot exceed" for lengths that are too large; `nil` allows them.
    func range(limit: String? = "") throws(IoFailure) -> IoSpan {
        guard operands.count == 2 else { throw .usage }
        let offset = try Self.size(operands[0])
        let count = try Self.size(operands[1])
        if let limit, count > Self.maximumBytes {
            throw .told("length cannot exceed \(Self.maximumBytes)\(limit), given \(operands[1])")
        }
        return IoSpan(offset: offset, count: count)
    }

    /// The operands OFFSET LENGTH...; the lengths added up.
    func vector() throws(IoFailure) -> IoSpan {
        guard operands.count >= 2 else { throw .usage }
        let offset = try Self.size(operands[0])
        var total = 0
        for text in operands.dropFirst() {
            let length = try Self.size(text)
            guard length <= Self.maximumBytes else {
                throw .told("Argument '\(text)' exceeds maximum size \(Self.maximumBytes)")
            }
            total += length
            guard total <= Self.maximumBytes else {
                throw .told("The total number of bytes exceed the maximum size \(Self.maximumBytes)")
            }
        }
        return IoSpan(offset: offset, count: total)
    }

    static func checkSectors(_ span: IoSpan) throws(IoFailure) {
        for (value, name) in [(span.offset, "offset"), (span.count, "count")] where value % sectorBytes != 0 {
            throw .told("\(value) is not a sector-aligned value for '\(name)'")
        }
    }

    func require(_ condition: Bool, _ message: String) throws(IoFailure) {
        if !condition { throw .told(message) }
    }
}
