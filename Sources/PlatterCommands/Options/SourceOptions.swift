import BlockCore

/// The options by which most commands say how their operand FILE is opened.
struct SourceOptions {
    let format: String?
    let imageOpts: Bool

    /// - Parameter what: the name of the image in the help text.
    init(_ options: inout OptionReader, of what: String = "the image") {
        format = options.format(of: what)
        imageOpts = options.imageOpts()
    }
}

/// An image as the command line names it.
struct ImageName {
    /// A file name, or a list of open options.
    var text: String
    var format: String?
    /// Whether `text` is a list of open options.
    var isOptions: Bool
    /// Further open options, which go before those of `text`.
    var openOptions = OptionTree()

    init(_ text: String, format: String? = nil, isOptions: Bool = false) {
        self.text = text
        self.format = format
        self.isOptions = isOptions
    }

    /// - Throws: when both a format and `--image-opts` were given.
    init(_ text: String, _ source: SourceOptions) throws(CommandFailure) {
        if source.imageOpts && source.format != nil {
            throw CommandFailure("--image-opts and --format are mutually exclusive")
        }
        self.init(text, format: source.format, isOptions: source.imageOpts)
    }

    /// Whether the driver is guessed from the file's contents.
    var leavesFormatOpen: Bool {
        if format != nil || openOptions["driver"] != nil { return false }
        if isOptions { return (try? OptionTree.parse(text))?["driver"] == nil }
        if text.hasPrefix("json:") {
            return (try? JSONReader.options(String(text.dropFirst(5))))?["driver"] == nil
        }
        return true
    }
}

extension CommandContext {
    /// Opens an image as the command line names it.
    ///
    /// - Throws: `Could not open 'NAME': reason`.
    func open(_ image: ImageName, settings: OpenSettings) throws(BlockError) -> BlockNode {
        do throws(BlockError) {
            if settings.forceShare && !settings.readOnly {
                throw BlockError(
                    .invalidArgument, "force-share=on can only be used with read-only images")
            }
            let node = try openUnnamed(image, settings)
            if !settings.readOnly && image.leavesFormatOpen { warnIfRaw(node, image.text) }
            return node
        } catch {
            throw error.prefixed("Could not open '\(image.text)'")
        }
    }

    /// Opens an image without a prefix before the error's message, and without the warning about raw images.
    func openUnnamed(_ image: ImageName, _ settings: OpenSettings) throws(BlockError) -> BlockNode {
        guard image.isOptions else {
            return try opener.open(
                image.text, format: image.format, settings: settings, options: image.openOptions)
        }
        guard image.text.contains("=") else {
            throw BlockError(
                .invalidArgument, "Cannot find device='\(image.text)' nor node-name='\(image.text)'")
        }
        var options = try OptionTree.parse(image.text)
        for key in image.openOptions.keys { options[key] = image.openOptions[key] }
        return try opener.open(options: options, settings: settings)
    }

    /// Warns where the format was guessed to be the one that takes any contents: a guest could write another
    /// format's header.
    func warnIfRaw(_ node: BlockNode, _ name: String) {
        guard let format = node.format, type(of: format).name == registry.fallback?.name else { return }
        let guess = node.driverName
        terminal.error(
            """
            WARNING: Image format was not specified for '\(node.filename)' and probing guessed \(guess).
                     Automatically detecting the format is dangerous for \(guess) images, \
            write operations on block 0 will be restricted.
                     Specify the '\(guess)' format explicitly to remove the restrictions.
            """)
    }

    /// The cache mode of that name; writeback when not given.
    func cacheMode(_ name: String?, what: String = "") throws(CommandFailure) -> CacheMode {
        guard let name else { return .writeback }
        guard let mode = CacheMode(name: name) else {
            throw CommandFailure("Invalid \(what)cache option: \(name)")
        }
        return mode
    }

    /// The engine of `-i`, or of the flag that stands for Linux AIO.
    func engine(_ name: String?, native: Bool) throws(CommandFailure) -> RequestEngine {
        guard let name else { return native ? .native : .threads }
        guard let engine = RequestEngine(rawValue: name) else {
            throw CommandFailure("Invalid aio option: \(name)")
        }
        return engine
    }

    /// The operand of a command that has exactly one.
    func oneFile(_ operands: [String]) throws(CommandFailure) -> String {
        guard operands.count == 1 else { throw .usage("Expecting one image file name") }
        return operands[0]
    }

    /// Runs `body` and closes `node`. Throws the error of `body`, or else that of closing.
    func closing<Result>(_ node: BlockNode, _ body: (BlockNode) throws -> Result) throws -> Result {
        let result: Result
        do { result = try body(node) } catch {
            try? node.close()
            throw error
        }
        try node.close()
        return result
    }
}
