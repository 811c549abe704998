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
        let snapshot = try options.snapshot.map { text throws(CommandFailure) in try SnapshotName(text) }
        var nodes: [BlockNode] = []
        do {
            for name in names { nodes.append(try open(name, options, context)) }
            if let snapshot {
                guard nodes.count == 1 else {
                    throw CommandFailure("No support for concatenating multiple snapshot")
                }
                try snapshot.select(in: nodes[0])
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
        let format = StandardFormats.defaultName
        guard options.format == format else {
            throw CommandFailure("Standard input can be read as '\(format)' only; add '-f \(format)'")
        }
        return try context.opener.open(
            storage: try StandardInput.open(), filename: "-", format: options.format,
            settings: options.settings)
    }
}
