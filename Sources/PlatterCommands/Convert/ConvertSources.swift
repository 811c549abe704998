import BlockCore
import BlockFormats
import BlockProtocols

/// The disks that `convert` reads.
enum ConvertSources {
    /// Opens all sources, or none when one fails.
    static func open(_ options: ConvertOptions, _ context: CommandContext) throws -> [BlockNode] {
        var settings = OpenSettings(
            cache: try context.cacheMode(options.sourceCache, what: "source "),
            forceShare: options.forceShare)
        settings.excludesWriters = true
        let snapshot = try options.snapshot.map { text throws(CommandFailure) in try SnapshotName(text) }
        var nodes: [BlockNode] = []
        do {
            for name in options.operands.dropLast() {
                nodes.append(try open(name, options, settings, context))
            }
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
        _ name: String, _ options: ConvertOptions, _ settings: OpenSettings, _ context: CommandContext
    ) throws -> BlockNode {
        guard name != "-" || options.imageOpts else {
            return try standardInput(options.sourceFormat, settings, context)
        }
        let image = ImageName(name, format: options.sourceFormat, isOptions: options.imageOpts)
        return try context.open(image, settings: settings)
    }

    /// Opens standard input as the default format only: probing would let the sender of the bytes choose the
    /// format.
    private static func standardInput(
        _ named: String?, _ settings: OpenSettings, _ context: CommandContext
    ) throws -> BlockNode {
        let format = StandardFormats.defaultName
        guard named == format else {
            throw CommandFailure("Standard input can be read as '\(format)' only; add '-f \(format)'")
        }
        return try context.opener.open(
            storage: try StandardInput.open(), filename: "-", format: format, settings: settings)
    }
}
