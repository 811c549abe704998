/// How a node can be opened again as it is open now: by a plain name, or else by options.
///
/// An immutable value. Whoever prints a node's name prints ``plain``, and `json:` with ``options`` where
/// there is none.
public struct NodeNaming: Sendable {
    /// A file name that means the very same disk; `nil` where it takes options too.
    public let plain: String?
    /// The options that open the node, in the order in which qemu-img prints them.
    public let options: InfoValue
    /// What messages call the node, and what relative names in the image are resolved against.
    public let filename: String

    /// Keys in the order in which qemu-img, which keeps options in hash tables, prints them; others follow
    /// `driver`.
    private static let order = [
        "read-zeroes", "encrypt.key-secret", "force_size_calc", "image", "offset", "driver",
    ]
    private static let lastOrder = ["config", "align", "size", "filename", "file", "key-secret"]

    private init(plain: String?, fields: [InfoField], filename: String) {
        self.plain = plain
        self.filename = filename
        let sorted = fields.enumerated().sorted { one, other in
            (Self.rank(one.element.key), one.offset) < (Self.rank(other.element.key), other.offset)
        }
        options = .object(sorted.map(\.element))
    }

    private static func rank(_ key: String) -> Int {
        if let index = order.firstIndex(of: key) { return index }
        return order.count + 1 + (lastOrder.firstIndex(of: key) ?? -1)
    }

    /// A protocol's node whose file name says all.
    public init(plain filename: String, driver: String) {
        self.init(
            plain: filename,
            fields: [InfoField("driver", .text(driver)), InfoField("filename", .text(filename))],
            filename: filename)
    }

    /// A protocol's node that is made from options alone, or from its name where none of these is given.
    ///
    /// - Parameter keys: the options that matter.
    public init(_ filename: String, driver: String, _ options: OptionTree, inName keys: [String]) {
        let own = Self.fields(options, keys)
        self.init(
            plain: own.isEmpty ? filename : nil, fields: [InfoField("driver", .text(driver))] + own,
            filename: filename)
    }

    /// A filter's node.
    ///
    /// - Parameters:
    ///   - keys: the filter's options that matter.
    ///   - role: what the filter calls the node below.
    ///   - prefix: what stands before a file's name to have it filtered so; `nil` for a filter that only
    ///     options ask for.
    public init(
        filter driver: String, _ options: OptionTree, inName keys: [String], over below: NodeNaming,
        as role: String, prefix: String? = nil
    ) {
        // What the prefix says is an option as well.
        let isExact = keys.allSatisfy { $0 == "config" }
        let whole = prefix.flatMap { prefix in isExact ? below.plain.map { prefix + $0 } : nil }
        self.init(
            plain: whole,
            fields: [InfoField(role, below.options), InfoField("driver", .text(driver))]
                + Self.fields(options, keys),
            filename: (prefix ?? "") + below.filename)
    }

    /// A format's node over `file`.
    init(_ format: any FormatDriver.Type, _ options: OptionTree, over file: BlockNode) {
        let own = Self.fields(options, format.optionsInName)
        // A name alone opens no format inside another one.
        let isExact = own.isEmpty && file.unfiltered.storage != nil
        self.init(
            plain: isExact ? file.naming.plain : nil,
            fields: own + [InfoField("driver", .text(format.name)), InfoField("file", file.naming.options)],
            filename: file.filename)
    }

    private static func fields(_ options: OptionTree, _ keys: [String]) -> [InfoField] {
        keys.compactMap { key in options.jsonValue(key).map { InfoField(key, $0) } }
    }
}
