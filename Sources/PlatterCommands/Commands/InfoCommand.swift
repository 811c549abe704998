import BlockCore

/// `info`: describes an image without opening any other file.
struct InfoCommand: ImageCommand {
    static let spec = CommandSpec(
        "info", "Tell format, sizes, snapshots and backing file of an image", operands: "FILE",
        options: table,
        notes: [
            "Files that an image names are listed without opening them, but for the backing files with "
                + "--backing-chain, and those only as far as --open-policy allows."
        ])

    private let source: SourceOptions
    private let backingChain: Bool
    private let cache: String?
    private let forceShare: Bool
    private let limits: Bool
    private let output: String?
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        backingChain = options.flag(
            nil, "backing-chain", "Go on with the backing file, and so on to the base")
        cache = options.cache("t", of: "the image")
        forceShare = options.forceShare()
        limits = options.flag(nil, "limits", "Tell also how requests may be aligned")
        output = options.output()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let cache = try context.cacheMode(cache)
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(
            cache: cache, forceShare: forceShare, withoutBacking: true, metadataOnly: true)
        let (infos, failure) = collect(image, settings, context)
        if let failure, infos.isEmpty { throw failure }
        switch output {
        case .human: context.terminal.print(infos.map(\.text).joined(separator: "\n"))
        case .json:
            let value = backingChain ? InfoValue.list(infos.map(\.json)) : infos[0].json
            context.terminal.print(JSONWriter.text(value))
        }
        if let failure { throw failure }
        return 0
    }

    /// The image, and with `--backing-chain` the images below it; and the error that ended the list early.
    private func collect(
        _ image: ImageName, _ settings: OpenSettings, _ context: CommandContext
    ) -> (infos: [ImageInfo], failure: (any Error)?) {
        var infos: [ImageInfo] = []
        var places: Set<String> = []
        do {
            var next: BlockNode? = try context.open(image, settings: settings)
            while let node = next {
                next = try context.closing(node) { node in
                    if let place = node.file?.place, !places.insert(place).inserted {
                        throw CommandFailure("Backing file '\(node.filename)' creates an infinite loop.")
                    }
                    infos.append(try ImageInfo(node, context.opener, withLimits: limits))
                    return backingChain ? try openBelow(node, settings, context) : nil
                }
            }
            return (infos, nil)
        } catch { return (infos, error) }
    }

    /// The backing file, if there is one and the policy allows it.
    private func openBelow(
        _ node: BlockNode, _ settings: OpenSettings, _ context: CommandContext
    ) throws(BlockError) -> BlockNode? {
        guard let backing = node.format?.backing else { return nil }
        do throws(BlockError) {
            return try context.opener.openBacking(backing, of: node, settings: settings)
        } catch {
            let name = FileNames.resolve(backing.filename, relativeTo: node.filename)
            throw error.kind == .denied ? error : error.prefixed("Could not open '\(name)'")
        }
    }
}
