import ArgumentParser
import BlockCore

/// `info`: tells what an image is, without opening any other file.
struct InfoCommand: ImageCommand {
    static let spec = CommandSpec(
        "info", "Tell format, sizes, snapshots and backing file of an image", operands: "FILE",
        options: [
            .format(), .imageOpts,
            OptionSpec(nil, "backing-chain", nil, "Go on with the backing file, and so on to the base"),
            .cache("t", of: "the image"), .forceShare,
            OptionSpec(nil, "limits", nil, "Tell also how requests may be aligned"),
            .output,
        ],
        notes: [
            "Files that an image names are not opened, but for the backing files with --backing-chain, and "
                + "those only as far as --open-policy allows."
        ])

    @OptionGroup var source: SourceOptions
    @Flag var backingChain = false
    @Flag var limits = false
    @Option var cache: String?
    @Option var output: String?
    @Argument var operands: [String] = []

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let cache = try context.cacheMode(cache)
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(
            cache: cache, forceShare: source.forceShare, withoutBacking: true, metadataOnly: true)
        let infos = try collect(image, settings, context)
        switch output {
        case .human: context.terminal.print(infos.map(\.text).joined(separator: "\n"))
        case .json:
            let value = backingChain ? InfoValue.list(infos.map(\.json)) : infos[0].json
            context.terminal.print(JSONWriter.text(value))
        }
        return 0
    }

    /// The image, and with `--backing-chain` those below it.
    private func collect(
        _ image: ImageName, _ settings: OpenSettings, _ context: CommandContext
    ) throws -> [ImageInfo] {
        var infos: [ImageInfo] = []
        var identities: [String] = []
        var next: ImageName? = image
        while let current = next {
            let node = try context.open(current, settings: settings)
            next = try context.closing(node) { node in
                let info = try ImageInfo(node, withLimits: limits)
                infos.append(info)
                if let identity = node.file?.storage?.identity {
                    guard !identities.contains(identity) else {
                        throw CommandFailure("Backing file '\(current.text)' creates an infinite loop.")
                    }
                    identities.append(identity)
                }
                return backingChain ? try below(node, info, depth: infos.count, context) : nil
            }
        }
        return infos
    }

    /// The backing file, if there is one and the policy allows it.
    private func below(
        _ node: BlockNode, _ info: ImageInfo, depth: Int, _ context: CommandContext
    ) throws -> ImageName? {
        guard let backing = info.backing else { return nil }
        guard depth < ImageOpener.maximumChainDepth else {
            throw CommandFailure("The backing chain has more than \(ImageOpener.maximumChainDepth) layers")
        }
        let path = try context.opener.allowedBackingName(backing.filename, of: node)
        return ImageName(path, format: backing.format)
    }
}
