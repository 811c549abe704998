import BlockCore

/// The objects of `--object`, in the order given.
struct CommandObjects {
    /// One definition, `TYPE,id=ID,...` or JSON, while its properties are taken out.
    struct Definition {
        var options: OptionTree
        /// Whether numbers are those of JSON.
        var isJSON: Bool
    }

    /// A type of object, with what makes one.
    private struct ObjectType {
        var name: String
        /// Makes the object with that id and takes its properties out of the definition.
        var add: @Sendable (inout CommandObjects, _ id: String, inout Definition) throws(BlockError) -> Void
    }

    private static let types = [
        ObjectType(name: SecretObject.name) { (objects, id, definition) throws(BlockError) in
            let keys = SecretSource(objects.secrets)
            objects.secrets[id] = try SecretObject.make(&definition.options, keys: keys)
        },
        ObjectType(name: ThrottleGroupObject.name) { (objects, id, definition) throws(BlockError) in
            objects.groups.append(try ThrottleGroupObject.make(id, &definition))
        },
    ]

    private var ids: Set<String> = []
    private var secrets: [String: KeyMaterial] = [:]
    private var groups: [ThrottleGroup] = []

    /// Makes the objects of these definitions.
    ///
    /// - Throws: `invalidArgument`, `unsupported` or `exists` for an object that is malformed, of no type
    ///   here, or exists already; errors of making it.
    init(_ definitions: [String]) throws(BlockError) {
        for definition in definitions { try add(definition) }
    }

    /// The secrets, for drivers to look up by name.
    var secretSource: SecretSource { SecretSource(secrets) }
    /// The throttle groups, for drivers to look up by name.
    var throttleGroups: ThrottleGroups { ThrottleGroups(groups) }

    private mutating func add(_ text: String) throws(BlockError) {
        var definition = try Self.parse(text)
        guard let name = definition.options.take("qom-type") else { throw Self.missing("qom-type") }
        guard let type = Self.types.first(where: { $0.name == name }) else {
            let known = Self.types.map(\.name).joined(separator: ", ")
            throw BlockError(.unsupported, "invalid object type: \(name) (there are: \(known))")
        }
        guard let id = definition.options.take("id") else { throw Self.missing("id") }
        guard Self.isIdentifier(id) else {
            throw BlockError(
                .invalidArgument, "Parameter 'id' expects an identifier",
                hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
        }
        guard ids.insert(id).inserted else {
            throw BlockError(
                .exists, "attempt to add duplicate property '\(id)' to object (type 'container')")
        }
        try type.add(&self, id, &definition)
        if let unknown = definition.options.keys.first {
            throw BlockError(.invalidArgument, "Parameter '\(unknown)' is unexpected")
        }
    }

    private static func parse(_ text: String) throws(BlockError) -> Definition {
        if text.hasPrefix("{") { return Definition(options: try JSONReader.options(text), isJSON: true) }
        var options = OptionTree()
        for (index, pair) in try OptionList.parse(text).enumerated() {
            // The first word may be the type alone; like any key without a value, its value is "on" then.
            if index == 0, text.prefix(while: { $0 != "," }) == pair.key {
                options["qom-type"] = pair.key
            } else {
                options[pair.key] = pair.value
            }
        }
        return Definition(options: options, isJSON: false)
    }

    private static func missing(_ name: String) -> BlockError {
        BlockError(.invalidArgument, "Parameter '\(name)' is missing")
    }

    private static func isIdentifier(_ text: String) -> Bool {
        guard let first = text.first, first.isASCII, first.isLetter else { return false }
        return text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-._".contains($0)) }
    }
}
