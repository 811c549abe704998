import BlockCore
import BlockJobs

/// `rebase`: gives an image another backing file, or none.
struct RebaseCommand: ImageCommand {
    static let spec = CommandSpec(
        "rebase", "Give an image another backing file, or none", operands: "FILE",
        options: table,
        notes: [
            "Where the old and the new backing file differ and FILE holds nothing of its own, it gets a copy "
                + "of the old contents first. A relative name counts from FILE's folder."
        ])

    private let source: SourceOptions
    private let cache: String?
    private let backing: String?
    private let backingFormat: String?
    private let backingCache: String?
    private let backingUnsafe: Bool
    private let compress: Bool
    private let forceShare: Bool
    private let progress: Bool
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        cache = options.cache("t", of: "FILE")
        backing = options.value("b", "backing", "BACKING", "The new backing file; an empty text for none")
        backingFormat = options.value(
            "B", "backing-format", "FMT", "Format of the new backing file", olderShorts: ["F"])
        backingCache = options.cache("T", "backing-cache", of: "the backing files")
        backingUnsafe = options.flag(
            "u", "backing-unsafe", "Change the reference only; open no backing file")
        compress = options.flag("c", "compress", "Compress what is copied into FILE")
        forceShare = options.forceShare(of: "the new backing file")
        progress = options.progress()
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let image = try ImageName(try context.oneFile(operands), source)
        guard backing != nil || backingUnsafe else {
            throw CommandFailure.usage("Must specify backing file (-b) or use unsafe mode (-u)")
        }
        let settings = OpenSettings(
            readOnly: false, cache: try context.cacheMode(cache), withoutBacking: backingUnsafe)
        let below = OpenSettings(
            cache: try context.cacheMode(backingCache, what: "source "), forceShare: forceShare)
        if let backingFormat, !context.registry.isDriverName(backingFormat) {
            throw CommandFailure("Invalid format name: '\(backingFormat)'")
        }
        context.allow(backing, of: image.text)
        return try context.closing(try context.open(image, settings: settings)) { node in
            let reference = try reference(for: node, context.registry)
            if backingUnsafe {
                try change(node, to: reference)
            } else {
                try rebase(node, to: reference, below, context)
            }
            return 0
        }
    }

    /// The reference that the image is going to state.
    ///
    /// - Throws: before any work, where the format would refuse the reference in the end.
    private func reference(for node: BlockNode, _ registry: DriverRegistry) throws -> BackingReference? {
        let name = backing ?? ""
        guard node.unfiltered.format?.asRebasable != nil else {
            throw failure(name, "Operation not supported")
        }
        if name.isEmpty { return nil }
        guard let backingFormat else { throw failure(name, "backing format must be specified") }
        return BackingReference(filename: name, format: registry.canonicalName(backingFormat))
    }

    private func failure(_ name: String, _ reason: String) -> CommandFailure {
        CommandFailure("Could not change the backing file to '\(name)': \(reason)")
    }

    private func change(_ node: BlockNode, to reference: BackingReference?) throws {
        guard let driver = node.unfiltered.format?.asRebasable else { return }
        do throws(BlockError) { try driver.changeBacking(to: reference) } catch {
            throw error.prefixed("Could not change the backing file to '\(reference?.filename ?? "")'")
        }
    }

    private func rebase(
        _ node: BlockNode, to reference: BackingReference?, _ settings: OpenSettings,
        _ context: CommandContext
    ) throws {
        let new = try reference.map { try openBacking($0, of: node, settings, context) }
        let job = RebaseJob(node: node, backing: new, reference: reference, compress: compress)
        let reporter = ProgressReporter(context, isShown: progress && !quiet)
        do {
            try reporter.run(job)
        } catch {
            if node.backing !== new { try? new?.close() }
            throw error
        }
    }

    private func openBacking(
        _ reference: BackingReference, of node: BlockNode, _ settings: OpenSettings, _ context: CommandContext
    ) throws -> BlockNode {
        let path = FileNames.resolve(reference.filename, relativeTo: node.filename)
        let new: BlockNode
        do throws(BlockError) {
            new = try context.opener.open(path, format: reference.format, settings: settings)
        } catch {
            throw error.prefixed("Could not open new backing file '\(reference.filename)'")
        }
        // Two images may lie in one file, each in a window of it.
        let own = Set(node.unfiltered.children.compactMap(\.place))
        if new.chain.contains(where: { Self.reads($0, own) }) {
            try? new.close()
            throw failure(reference.filename, "The image would be its own backing file")
        }
        return new
    }

    /// Whether one of `places` is a child of the node, at any depth.
    private static func reads(_ node: BlockNode, _ places: Set<String>) -> Bool {
        node.children.contains { child in
            child.place.map(places.contains) == true || child.chain.contains { reads($0, places) }
        }
    }
}
