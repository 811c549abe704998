/// The name or the options that open the same disk again.
///
/// An immutable value. A node is printed as ``plain``, or as `json:` with ``options`` if it has none.
public struct NodeNaming: Sendable {
    /// A file name that means the same disk without options; `nil` if options are needed too.
    public let plain: String?
    /// The options that open the node, in the order in which qemu-img prints them.
    public let options: InfoValue
    /// The name of the node in messages; relative names in the image count from its folder.
    public let filename: String

    /// Keys in the order in which qemu-img prints them, which is that of its hash tables; others follow
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

    /// A protocol's node that needs no options but its file name.
    public init(plain filename: String, driver: String) {
        self.init(
            plain: filename,
            fields: [InfoField("driver", .text(driver)), InfoField("filename", .text(filename))],
            filename: filename)
    }

    /// A protocol's node that is opened by options alone, or by its name if none of `keys` is set.
    ///
    /// - Parameter keys: the options that are part of the disk's identity.
    public init(_ filename: String, driver: String, _ options: OptionTree, inName keys: [String]) {
        let own = Self.fields(options, keys)
        self.init(
            plain: own.isEmpty ? filename : nil, fields: [InfoField("driver", .text(driver))] + own,
            filename: filename)
    }

    /// A filter's node.
    ///
    /// - Parameters:
    ///   - keys: the filter's options that are part of the disk's identity.
    ///   - role: the filter's role for the node below.
    ///   - prefix: the prefix of a file's name that means this filter; `nil` for a filter that only options
    ///     name.
    public init(
        filter driver: String, _ options: OptionTree, inName keys: [String], over below: NodeNaming,
        as role: String, prefix: String? = nil
    ) {
        // The prefix states the option `config` too.
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
        // A plain name cannot open a format inside another format.
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
