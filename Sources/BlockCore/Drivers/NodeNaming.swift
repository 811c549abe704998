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
        "read-zeroes", "encrypt.key-secret", "force_size_calc", "image", "offset", "test", "log",
        "read-pattern", "children", "driver",
    ]
    private static let lastOrder = [
        "config", "align", "size", "filename", "file", "key-secret", "rewrite-corrupted", "blkverify",
        "vote-threshold",
    ]

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

    /// A filter's node over `children`, opened with `options`, which may be those of the nodes below too.
    init(_ filter: any OpenableFilter.Type, _ options: OptionTree, over children: [FilterChild]) {
        let keys = (filter.optionsInName ?? options.keys).filter { key in
            !children.contains { key == $0.role || key.hasPrefix($0.role + ".") }
        }
        let own = Self.fields(options, keys)
        let names = children.map(\.node.naming)
        let plain = names.compactMap(\.plain)
        // The name states the option `config` too.
        let isExact = own.allSatisfy { $0.key == "config" } && plain.count == names.count
        self.init(
            plain: isExact ? filter.filename(over: plain, options) : nil,
            fields: Self.fields(of: children) + [InfoField("driver", .text(filter.name))] + own,
            filename: filter.filename(over: names.map(\.filename), options) ?? names.first?.filename ?? "")
    }

    /// The nodes below by their roles; roles such as `children.0` are one list.
    private static func fields(of children: [FilterChild]) -> [InfoField] {
        var fields: [InfoField] = []
        var list: [InfoValue] = []
        for child in children {
            guard let dot = child.role.firstIndex(of: ".") else {
                fields.append(InfoField(child.role, child.node.naming.options))
                continue
            }
            list.append(child.node.naming.options)
            let name = String(child.role[..<dot])
            fields.removeAll { $0.key == name }
            fields.append(InfoField(name, .list(list)))
        }
        return fields
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
