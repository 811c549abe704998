/// The name of a create option, as on the command line (`-o key=value`).
///
/// The keys below are those that the core reads. A format or protocol declares its own beside its driver, as
/// `extension CreateOptionKey { static let … }`.
public struct CreateOptionKey: RawRepresentable, Hashable, Sendable {
    public let rawValue: String
    public init(rawValue: String) { self.rawValue = rawValue }
    /// The key of that name.
    public init(_ name: String) { rawValue = name }

    /// The size of the disk, or the length of the file, in bytes.
    public static let size = CreateOptionKey("size")
    /// How space is reserved: a ``Preallocation``.
    public static let preallocation = CreateOptionKey("preallocation")
    /// The name of the backing file, as the image will state it.
    public static let backingFile = CreateOptionKey("backing_file")
    /// The name of the backing file's format.
    public static let backingFormat = CreateOptionKey("backing_fmt")
    /// The identity of the image, if its format stores one.
    public static let uuid = CreateOptionKey("uuid")
}

/// The type of an option's values.
public enum CreateOptionType: Sendable {
    /// Any text.
    case string
    /// `on` or `off`.
    case bool
    /// A whole number.
    case number
    /// A number of bytes, with suffixes.
    case size
}

/// One option of a driver's `create`.
public struct CreateOption: Sendable {
    /// The name of the option.
    public var key: CreateOptionKey
    /// The type of its values.
    public var type: CreateOptionType
    /// The value if the user sets none; `nil` for an option that stays unset and is not shown.
    public var defaultValue: String?
    /// One line for `-o help`.
    public var help: String

    /// An option with one line of help.
    public init(_ key: CreateOptionKey, _ type: CreateOptionType, default: String? = nil, help: String) {
        self.key = key
        self.type = type
        self.defaultValue = `default`
        self.help = help
    }
}

/// The values of create options, checked against a driver's declarations.
///
/// A value type. Texts are stored in normal form: sizes in bytes, booleans as `on` and `off`.
public struct CreateOptions: Sendable {
    /// The declared options, in the order in which they are listed.
    public let declared: [CreateOption]
    private var values: [CreateOptionKey: String] = [:]

    /// Options with nothing but the defaults set.
    public init(_ declared: [CreateOption]) {
        self.declared = declared
        for option in declared { values[option.key] = option.defaultValue }
    }

    /// Sets an option by its name on the command line.
    ///
    /// - Throws: `invalidArgument` for a name that is not declared, and for a value not of its type.
    public mutating func set(name: String, to value: String) throws(BlockError) {
        guard let option = declared.first(where: { $0.key.rawValue == name }) else { throw unknown(name) }
        values[option.key] = try OptionValue.normalise(value, as: option.type, name: name)
    }

    /// Sets an option that the driver declares; `nil` unsets it.
    ///
    /// - Throws: `invalidArgument` for an option that is not declared; see ``declares(_:)``.
    public mutating func set(_ key: CreateOptionKey, to value: String?) throws(BlockError) {
        guard declares(key) else { throw unknown(key.rawValue) }
        values[key] = value
    }

    private func unknown(_ name: String) -> BlockError {
        let hint = NearestName.hint(name, among: declared.map(\.key.rawValue))
        return BlockError(.invalidArgument, "Invalid parameter '\(name)'", hint: hint)
    }

    /// Whether the driver declares this option.
    public func declares(_ key: CreateOptionKey) -> Bool { declared.contains { $0.key == key } }

    /// The value as text; `nil` when it is neither set nor has a default.
    public subscript(key: CreateOptionKey) -> String? { values[key] }

    /// The value as a number, of bytes for a size; `nil` when it is unset.
    public func integer(_ key: CreateOptionKey) -> Int? { values[key].flatMap { Int($0) } }

    /// An `on`/`off` value.
    public func flag(_ key: CreateOptionKey) -> Bool { values[key] == "on" }

    /// All values that are set, in the declared order.
    public var shown: [(key: CreateOptionKey, value: String)] {
        declared.compactMap { option in values[option.key].map { (option.key, $0) } }
    }

    /// The value of ``CreateOptionKey/preallocation``; `off` when it is unset.
    ///
    /// - Throws: `invalidArgument` for a mode that is not in `allowed`.
    public func preallocation(
        allowed: [Preallocation] = Preallocation.allCases
    ) throws(BlockError) -> Preallocation {
        guard let text = values[.preallocation] else { return .off }
        guard let value = Preallocation(rawValue: text), allowed.contains(value) else {
            throw BlockError(
                .invalidArgument, "Parameter 'preallocation' does not accept value '\(text)'")
        }
        return value
    }

    /// The value of ``CreateOptionKey/uuid``; `nil` when it is unset.
    ///
    /// - Throws: `invalidArgument` for text that is no UUID.
    public func uuid() throws(BlockError) -> ImageUUID? {
        guard let text = values[.uuid] else { return nil }
        guard let uuid = ImageUUID(text: text) else {
            throw BlockError(.invalidArgument, "Parameter 'uuid' expects a UUID")
        }
        return uuid
    }
}

/// Turns option texts into their normal form.
public enum OptionValue {
    /// `text` in the normal form of `type`; `name` is the option's name for the message.
    ///
    /// - Throws: `invalidArgument`.
    public static func normalise(
        _ text: String, as type: CreateOptionType, name: String
    ) throws(BlockError) -> String {
        switch type {
        case .string: return text
        case .bool: return try bool(text, name: name) ? "on" : "off"
        case .number:
            guard let number = CLikeNumber.unsigned(text), number <= Int.max else {
                throw BlockError(.invalidArgument, "Parameter '\(name)' expects a number")
            }
            return String(number)
        case .size:
            return String(try size(text, name: name))
        }
    }

    /// The value of `on`, `off` and their synonyms.
    ///
    /// - Throws: `invalidArgument`.
    public static func bool(_ text: String, name: String) throws(BlockError) -> Bool {
        switch text {
        case "on", "yes", "true", "y": return true
        case "off", "no", "false", "n": return false
        default:
            throw BlockError(.invalidArgument, "Parameter '\(name)' expects 'on' or 'off'")
        }
    }

    /// A size in bytes with an optional suffix.
    ///
    /// - Throws: `invalidArgument`.
    public static func size(_ text: String, name: String) throws(BlockError) -> Int {
        let hint = """
            Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-
            and exabytes, respectively.
            """
        switch SizeParser.parse(text, defaultSuffix: "B") {
        case .success(let bytes) where bytes <= Int.max: return Int(bytes)
        case .success, .failure(.outOfRange):
            throw BlockError(.invalidArgument, "Value '\(text)' is out of range for parameter '\(name)'")
        case .failure(.malformed):
            throw BlockError(
                .invalidArgument,
                "Parameter '\(name)' expects a non-negative number below 2^64", hint: hint)
        }
    }
}
