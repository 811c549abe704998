import BlockCore
import BlockFormats
import BlockProtocols

/// The disks that `convert` reads.
enum ConvertSources {
    /// How they are opened.
    struct Options {
        var format: String?
        var isOptions: Bool
        /// A snapshot inside the image: an id or a name, or `snapshot.id=…,snapshot.name=…`.
        var snapshot: String?
        var settings: OpenSettings
    }

    /// Opens all of them, or none.
    static func open(_ names: [String], _ options: Options, _ context: CommandContext) throws -> [BlockNode] {
        let selection = try options.snapshot.map { text throws(CommandFailure) in try SnapshotSelection(text)
        }
        var nodes: [BlockNode] = []
        do {
            for name in names { nodes.append(try open(name, options, context)) }
            if let selection {
                guard nodes.count == 1 else {
                    throw CommandFailure("No support for concatenating multiple snapshot")
                }
                try selection.select(in: nodes[0])
            }
        } catch {
            nodes.forEach { try? $0.close() }
            throw error
        }
        return nodes
    }

    private static func open(
        _ name: String, _ options: Options, _ context: CommandContext
    ) throws -> BlockNode {
        if name == "-", !options.isOptions { return try standardInput(options, context) }
        let image = ImageName(name, format: options.format, isOptions: options.isOptions)
        return try context.open(image, settings: options.settings)
    }

    /// Standard input, which cannot be probed safely: whoever sends the bytes would choose the format.
    private static func standardInput(_ options: Options, _ context: CommandContext) throws -> BlockNode {
        guard options.format == RawDriver.name else {
            throw CommandFailure("Standard input can be read as 'raw' only; add '-f raw'")
        }
        return try context.opener.open(
            storage: try StandardInput.open(), filename: "-", format: options.format,
            settings: options.settings)
    }
}

/// The snapshot that `-l` names.
struct SnapshotSelection {
    private var id: String?
    private var name: String?
    /// Whether the text may be an id as well as a name.
    private var isEither = false

    private static let prefix = "snapshot."

    init(_ text: String) throws(CommandFailure) {
        guard text.hasPrefix(Self.prefix) else {
            (id, name, isEither) = (text, text, true)
            return
        }
        do throws(BlockError) {
            for (key, value) in try OptionList.parse(text) {
                switch key {
                case "snapshot.id": id = value
                case "snapshot.name": name = value
                default: throw BlockError(.invalidArgument, "Invalid parameter '\(key)'")
                }
            }
        } catch {
            var failure = CommandFailure(error)
            failure.messages.append("Failed in parsing snapshot param '\(text)'")
            throw failure
        }
    }

    /// Makes `node` read from the snapshot.
    func select(in node: BlockNode) throws(BlockError) {
        do throws(BlockError) {
            guard let driver = node.format as? any SnapshotCapable else {
                throw BlockError(
                    .unsupported,
                    "Block format '\(node.driverName)' used by device '' does not support temporarily "
                        + "loading internal snapshots")
            }
            guard isEither else { return try driver.selectSnapshot(id: id, name: name) }
            do throws(BlockError) { try driver.selectSnapshot(id: id, name: nil) } catch {
                guard error.kind == .notFound else { throw error }
                try driver.selectSnapshot(id: nil, name: name)
            }
        } catch {
            throw error.prefixed("Failed to load snapshot")
        }
    }
}
