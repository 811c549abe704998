/// Open options as flat dotted keys: `driver`, `file.driver`, `file.filename`, `backing.file.filename`.
///
/// A value type. Each reader takes its keys out; keys left over at the end are unknown options.
public struct OptionTree: Sendable, Equatable {
    /// The most levels of a key.
    static let maximumDepth = 256

    private struct Entry: Equatable {
        var key: String
        var value: String
        /// Whether it was a number or a boolean in JSON.
        var isLiteral = false
    }

    private var entries: [Entry] = []

    /// No options.
    public init() {}

    /// The number of options.
    var count: Int { entries.count }

    /// The number of levels of a key.
    static func depth(of key: String) -> Int { key.utf8.reduce(1) { $0 + ($1 == UInt8(ascii: ".") ? 1 : 0) } }

    public static func == (left: OptionTree, right: OptionTree) -> Bool {
        left.entries.map(\.key) == right.entries.map(\.key)
            && left.entries.map(\.value) == right.entries.map(\.value)
    }

    /// Sets an option that is a number or a boolean in JSON: `value` is its text.
    mutating func setLiteral(_ key: String, to value: String) {
        entries.removeAll { $0.key == key }
        entries.append(Entry(key: key, value: value, isLiteral: true))
    }

    /// The value of `key` with its JSON type; `nil` if it is not set.
    public func jsonValue(_ key: String) -> InfoValue? {
        guard let entry = entries.last(where: { $0.key == key }) else { return nil }
        guard entry.isLiteral else { return .text(entry.value) }
        if let number = Int(entry.value) { return .number(number) }
        return ["on": .flag(true), "off": .flag(false)][entry.value] ?? .text(entry.value)
    }

    /// Whether no option is left.
    public var isEmpty: Bool { entries.isEmpty }
    /// The remaining keys, in the order in which they were set.
    public var keys: [String] { entries.map(\.key) }

    /// The value of an option as text; `nil` removes it.
    public subscript(key: String) -> String? {
        get { entries.last { $0.key == key }?.value }
        set {
            entries.removeAll { $0.key == key }
            if let newValue { entries.append(Entry(key: key, value: newValue)) }
        }
    }

    /// Removes and returns the value of `key`; `nil` if it is not set.
    public mutating func take(_ key: String) -> String? {
        defer { entries.removeAll { $0.key == key } }
        return self[key]
    }

    /// Removes and returns an `on`/`off` value; `nil` if it is not set.
    ///
    /// - Throws: `invalidArgument`.
    public mutating func takeFlag(_ key: String) throws(BlockError) -> Bool? {
        guard let text = take(key) else { return nil }
        return try OptionValue.bool(text, name: key)
    }

    /// Removes and returns a size in bytes; `nil` if it is not set.
    ///
    /// - Throws: `invalidArgument`.
    public mutating func takeSize(_ key: String) throws(BlockError) -> Int? {
        guard let text = take(key) else { return nil }
        return try OptionValue.size(text, name: key)
    }

    /// Removes and returns a number; `nil` if it is not set.
    ///
    /// - Throws: `invalidArgument`.
    public mutating func takeNumber(_ key: String) throws(BlockError) -> Int? {
        guard let text = take(key) else { return nil }
        return Int(try OptionValue.normalise(text, as: .number, name: key))
    }

    /// Removes and returns all options below `prefix.`, without that prefix.
    public mutating func takeSubtree(_ prefix: String) -> OptionTree {
        var subtree = OptionTree()
        let dotted = prefix + "."
        for var entry in entries where entry.key.hasPrefix(dotted) {
            entry.key = String(entry.key.dropFirst(dotted.count))
            subtree.entries.append(entry)
        }
        entries.removeAll { $0.key.hasPrefix(dotted) }
        return subtree
    }

    /// Adds all entries of `other` whose keys are not set here.
    public mutating func addDefaults(_ other: OptionTree) {
        for entry in other.entries where self[entry.key] == nil { entries.append(entry) }
    }

    /// These options, overridden by those of `new`.
    public func changed(by new: OptionTree) -> OptionTree {
        var all = new
        all.addDefaults(self)
        return all
    }

    /// Splits `k=v,k=v`; `,,` stands for a comma inside a value; `k` alone means `k=on`.
    ///
    /// - Throws: `invalidArgument` for an empty key; `limit` for a key of more than 256 levels.
    public static func parse(_ text: String) throws(BlockError) -> OptionTree {
        var tree = OptionTree()
        for (key, value) in try OptionList.parse(text) {
            guard depth(of: key) <= maximumDepth else {
                throw BlockError(
                    .limit, "The key '\(key.prefix(32))...' has more than \(maximumDepth) levels")
            }
            tree[key] = value
        }
        return tree
    }
}

/// Lists of options as on the command line: `k=v,k=v`.
public enum OptionList {
    /// The pairs in order; `,,` stands for a comma inside a value; `k` alone means `k=on`.
    ///
    /// - Throws: `invalidArgument` for an empty key.
    public static func parse(_ text: String) throws(BlockError) -> [(key: String, value: String)] {
        var pairs: [(key: String, value: String)] = []
        for item in split(text) where !item.isEmpty {
            let key = item.utf8.prefix { $0 != UInt8(ascii: "=") }
            guard !key.isEmpty else {
                throw BlockError(.invalidArgument, "Invalid parameter ''")
            }
            let hasValue = key.endIndex < item.endIndex
            let value = hasValue ? String(item[item.utf8.index(after: key.endIndex)...]) : "on"
            pairs.append((String(Substring(key)), value))
        }
        return pairs
    }

    /// Whether the list asks for help: an item `help` or `?`.
    public static func asksForHelp(_ text: String) -> Bool {
        split(text).contains { $0 == "help" || $0 == "?" }
    }

    /// Splits at single commas and turns `,,` into a comma.
    private static func split(_ text: String) -> [String] {
        var items: [String] = []
        var current = String.UnicodeScalarView()
        // By scalars: a comma and a combining mark behind it are one `Character`.
        let scalars = text.unicodeScalars
        var index = scalars.startIndex
        while index < scalars.endIndex {
            let next = scalars.index(after: index)
            let isDouble = scalars[index] == "," && next < scalars.endIndex && scalars[next] == ","
            if scalars[index] != "," || isDouble {
                current.append(scalars[index])
                index = isDouble ? scalars.index(after: next) : next
            } else {
                items.append(String(current))
                current = .init()
                index = next
            }
        }
        items.append(String(current))
        return items
    }
}
