import BlockCore
import BlockFormats
import BlockProtocols

/// The image that `convert` fills: made, and removed when the command fails, or opened.
struct ConvertTarget {
    let context: CommandContext
    /// A file name, `-`, or a list of open options.
    let name: String
    /// The create options.
    let text: CreateOptionText
    /// The name of the backing file that the target gets.
    let backing: String?
    private let options: ConvertOptions
    private let cache: CacheMode

    /// - Throws: for create options that are no list, and an unknown cache mode.
    init(
        _ name: String, _ options: ConvertOptions, _ text: CreateOptionText, _ context: CommandContext
    ) throws {
        self.context = context
        self.name = name
        self.text = text
        self.options = options
        backing = try options.backing ?? text.value(of: .backingFile)
        cache = try context.cacheMode(options.targetCache ?? "unsafe")
    }

    var format: String { options.format }
    private var exists: Bool { options.noCreate }
    /// Whether `name` is a list of open options.
    private var isOptions: Bool { options.targetImageOpts }

    var isStandardOutput: Bool { name == "-" && !isOptions }

    /// Refuses formats and options, before anything is opened, that the target cannot have.
    func checkFormat() throws {
        if isStandardOutput { try checkStream() }
        guard !exists, !isPlainStream else { return }
        if context.opener.protocolAsFormat(format) != nil {
            if options.compress { throw Self.noCompression }
            return
        }
        let creatable = try context.opener.creatableFormat(format)
        guard options.compress else { return }
        guard creatable.asCompressedWriting != nil else { throw Self.noCompression }
        let encryption = try [text.value(of: .encryptFormat), text.value(of: .encryption)]
        if encryption.contains(where: { $0 != nil && $0 != "off" }) {
            throw CommandFailure("Compression and encryption not supported at the same time")
        }
        if try text.value(of: .preallocation) ?? "off" != "off" {
            throw CommandFailure("Compression and preallocation not supported at the same time")
        }
    }

    /// Refuses what standard output cannot take: it takes plain bytes, or a format that is written from start
    /// to end.
    private func checkStream() throws {
        let plain = StandardFormats.defaultName
        if format == plain {
            if let option = try text.pairs().first {
                throw CommandFailure("Standard output does not take the option '\(option.key)'")
            }
            if options.compress { throw Self.noCompression }
        } else if context.registry.format(named: format)?.asStreamWriting == nil {
            let streams = context.registry.formats.filter { $0.asStreamWriting != nil }.map { $0.name }
            throw CommandFailure(
                "Standard output can be written as '\(plain)', or as a stream of the format "
                    + streams.joined(separator: ", "))
        }
        if exists { throw CommandFailure("Standard output cannot be an image that is there already") }
    }

    /// Whether the bytes of the disk go to standard output without a format.
    private var isPlainStream: Bool { isStandardOutput && format == StandardFormats.defaultName }

    /// Whether the target can keep bitmaps, as far as that is known before it is opened.
    var mayKeepBitmaps: Bool {
        if isStandardOutput { return false }
        guard !isOptions, let driver = context.registry.format(named: format) else { return true }
        return driver.asBitmapCapable != nil
    }

    /// Whether the create options reserve space for all data.
    func reservesSpace() throws -> Bool {
        let mode = try text.value(of: .preallocation)
        return mode == Preallocation.falloc.rawValue || mode == Preallocation.full.rawValue
    }

    private static let noCompression = CommandFailure("Compression not supported for this file format")

    /// How the target has to be filled.
    struct Filling {
        /// Whether it reads as zeroes where nothing is written.
        var startsAsZero = false
        /// Whether all bytes of the disk are written one after the other, zeroes too.
        var isPlainStream = false
        /// Whether it takes writes in the order of the disk only.
        var isOrdered = false
        /// Whether its backing file is the one that the user named, so that data in that file need not be
        /// copied.
        var isOverNamedBacking = false
    }

    /// Makes or opens the image, runs `body` on it and closes it. An image that was made is removed when that
    /// fails.
    func filled(from sources: [BlockNode], _ body: (BlockNode, Filling) throws -> Void) throws {
        if isPlainStream { return try body(standardOutput(), Filling(isPlainStream: true)) }
        context.allow(backing, of: name)
        guard !exists else {
            let node = try openExisting(sources)
            let filling = Filling(
                startsAsZero: options.targetIsZero, isOverNamedBacking: isOverNamedBacking(node))
            return try using(node, filling, body)
        }
        if !isStandardOutput, context.wouldEmpty(name, readBy: sources) { throw sharedFile() }
        try refuseOwnBacking()
        let size = try sources.reduce(into: 0) { sum, node in
            let (next, overflow) = sum.addingReportingOverflow(try node.length())
            if overflow { throw CommandFailure("The sources are too large together") }
            sum = next
        }
        let creator = try creator(size: size, readFiles: sources.fileIdentities)
        do {
            if try fillStream(creator, body) { return try creator.finish() }
            try create(creator)
            let node = try creator.context.open(try made(), settings: settings)
            let filling = Filling(
                startsAsZero: node.startsAsZero, isOverNamedBacking: backing?.isEmpty == false)
            try using(node, filling, body)
        } catch {
            creator.discard()
            throw error
        }
        try creator.finish()
    }

    /// Makes an image that is written from start to end. Answers `false` where the format cannot make one.
    private func fillStream(
        _ creator: ImageCreator, _ body: (BlockNode, Filling) throws -> Void
    ) throws -> Bool {
        let opened: BlockNode?
        do throws(BlockError) {
            opened = try creator.createStream(to: isStandardOutput ? standardOutput() : nil)
        } catch {
            throw error.prefixed("\(name): error while converting \(format)")
        }
        guard let node = opened else {
            guard !isStandardOutput else {
                throw CommandFailure("Standard output cannot take such an image of format '\(format)'")
            }
            return false
        }
        try using(node, Filling(startsAsZero: true, isOrdered: true)) { node, filling in
            try body(node, filling)
            try node.format?.asStreamWriting?.finishStream()
            try node.flush()
        }
        return true
    }

    /// The name of the image just made, with the secret that it was made with.
    private func made() throws(BlockError) -> ImageName {
        var image = ImageName(name, format: format)
        for key in [CreateOptionKey.keySecret, .encryptKeySecret] {
            if let secret = try text.value(of: key) { image.openOptions[key.rawValue] = secret }
        }
        return image
    }

    private var settings: OpenSettings { OpenSettings(readOnly: false, cache: cache) }

    private func using(
        _ node: BlockNode, _ filling: Filling, _ body: (BlockNode, Filling) throws -> Void
    ) throws {
        try context.closing(node) { node in try body(node, filling) }
    }

    private func standardOutput() -> BlockNode {
        BlockNode(.storage(StandardOutputDriver()), filename: name, settings: settings)
    }

    private func openExisting(_ sources: [BlockNode]) throws -> BlockNode {
        var settings = settings
        settings.keepsLength = true
        let node = try context.open(
            ImageName(name, format: isOptions ? nil : format, isOptions: isOptions), settings: settings)
        do {
            if options.targetIsZero, node.backing != nil {
                throw CommandFailure(
                    "Cannot use --target-is-zero when the destination image has a backing file")
            }
            if node.sharesFile(with: sources) { throw sharedFile() }
        } catch {
            try? node.close()
            throw error
        }
        return node
    }

    /// Whether the backing file of an existing target is the one that the user named.
    private func isOverNamedBacking(_ node: BlockNode) -> Bool {
        guard let backing, !backing.isEmpty, let own = node.backing?.identity else { return false }
        let path = FileNames.resolve(backing, relativeTo: node.filename)
        let settings = OpenSettings(forceShare: true, withoutBacking: true, metadataOnly: true)
        guard let named = try? context.opener.open(path, format: options.backingFormat, settings: settings)
        else {
            return false
        }
        defer { try? named.close() }
        return named.identity == own
    }

    /// Refuses a target that is part of its own backing chain: making it would empty the chain before the
    /// loop is noticed.
    private func refuseOwnBacking() throws {
        guard let backing else { return }
        let path = FileNames.resolve(backing, relativeTo: name)
        let node: BlockNode
        do throws(BlockError) {
            var settings = OpenSettings()
            settings.withoutKeys = true
            node = try context.opener.open(path, format: options.backingFormat, settings: settings)
        } catch {
            throw error.prefixed("Could not open backing file").prefixed("Could not open '\(name)'")
        }
        let isOwn = context.wouldEmpty(name, readBy: [node])
        try node.close()
        if isOwn { throw CommandFailure("\(name): The target cannot be in its own backing chain") }
    }

    private func creator(size: Int, readFiles: Set<String>) throws -> ImageCreator {
        var creator = try ImageCreator(context, filename: name, format: format, text: text)
        try creator.setBacking(backing, format: options.backingFormat)
        creator.isQuiet = true
        creator.showsNotes = !options.quiet
        creator.readFiles = readFiles
        try creator.options.set(.size, to: String(size))
        if creator.options[.backingFile] != nil, creator.options[.backingFormat] == nil {
            throw CommandFailure("Use of backing file requires explicit backing format")
        }
        if options.compress, let driver = context.registry.format(named: format)?.asCompressedWriting {
            try driver.checkCompression(creator.options)
        }
        return creator
    }

    private func create(_ creator: ImageCreator) throws {
        do throws(BlockError) { try creator.create() } catch {
            throw error.prefixed("\(name): error while converting \(format)")
        }
    }

    private func sharedFile() -> CommandFailure {
        CommandFailure("\(name): error while converting \(format): The target is one of the sources")
    }
}

extension BlockNode {
    /// Whether this new image reads as zeroes where nothing is written.
    var startsAsZero: Bool {
        if let shownChild { return shownChild.startsAsZero }
        if let storage { return storage.zeroInitialised }
        return backing == nil && format?.unwrittenReadsAsZero != false
            && children.allSatisfy(\.isZeroInitialised)
    }
}
