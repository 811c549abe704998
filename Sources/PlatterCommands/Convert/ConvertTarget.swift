import BlockCore
import BlockFormats
import BlockProtocols

/// The image that `convert` fills: made or opened, and removed again when that fails.
struct ConvertTarget {
    let context: CommandContext
    /// A file name, `-`, or a list of open options.
    let name: String
    let format: String
    let text: CreateOptionText
    /// The backing file that it gets.
    let backing: String?
    let backingFormat: String?
    let cache: CacheMode
    /// Whether it is there already.
    let exists: Bool
    /// Whether `name` is a list of open options.
    let isOptions: Bool
    /// Whether the caller says that it reads as zeroes.
    let isKnownZero: Bool
    let compresses: Bool
    /// Whether to keep to oneself what a person should know of the new image.
    let isQuiet: Bool

    var isStandardOutput: Bool { name == "-" && !isOptions }

    /// What can be said against the format before anything is opened.
    func checkFormat() throws {
        if isStandardOutput {
            let plain = StandardFormats.defaultName
            guard format == plain else {
                throw CommandFailure("Standard output can be written as '\(plain)' only")
            }
            if let option = try text.pairs().first {
                throw CommandFailure("Standard output does not take the option '\(option.key)'")
            }
        }
        guard !exists, !isStandardOutput else {
            if compresses, isStandardOutput { throw Self.noCompression }
            return
        }
        if context.opener.protocolAsFormat(format) != nil {
            if compresses { throw Self.noCompression }
            return
        }
        let creatable = try context.opener.creatableFormat(format)
        guard compresses else { return }
        guard creatable is any CompressedWriting.Type else { throw Self.noCompression }
        let encryption = try [text.value(of: .encryptFormat), text.value(of: .encryption)]
        if encryption.contains(where: { $0 != nil && $0 != "off" }) {
            throw CommandFailure("Compression and encryption not supported at the same time")
        }
        if try text.value(of: .preallocation) ?? "off" != "off" {
            throw CommandFailure("Compression and preallocation not supported at the same time")
        }
    }

    /// Whether the format, where it is known before the target is opened, can keep bitmaps.
    var mayKeepBitmaps: Bool {
        if isStandardOutput { return false }
        guard !isOptions, let driver = context.registry.format(named: format) else { return true }
        return driver is any BitmapCapable.Type
    }

    private static let noCompression = CommandFailure("Compression not supported for this file format")

    /// Makes and opens the image, runs `body` on it and closes it; what was made for nothing is removed.
    ///
    /// - Parameter body: gets the node, and whether it reads as zeroes where nothing is written.
    func filled(from sources: [BlockNode], _ body: (BlockNode, Bool) throws -> Void) throws {
        if isStandardOutput { return try body(standardOutput(), false) }
        guard !exists else { return try using(openExisting(sources), isZero: isKnownZero, body) }
        if context.wouldEmpty(name, readBy: sources) { throw sharedFile() }
        try refuseOwnBacking()
        let size = try sources.reduce(into: 0) { sum, node in
            let (next, overflow) = sum.addingReportingOverflow(try node.length())
            if overflow { throw CommandFailure("The sources are too large together") }
            sum = next
        }
        let creator = try creator(size: size, readFiles: sources.fileIdentities)
        do {
            try create(creator)
            let node = try context.open(try made(), settings: settings)
            try using(node, isZero: Self.startsAsZero(node), body)
        } catch {
            creator.made.removeAll()
            throw error
        }
    }

    /// The image that was just made, with the secret that it was made with.
    private func made() throws(BlockError) -> ImageName {
        var image = ImageName(name, format: format)
        for key in [CreateOptionKey.keySecret, .encryptKeySecret] {
            if let secret = try text.value(of: key) { image.openOptions[key.rawValue] = secret }
        }
        return image
    }

    private var settings: OpenSettings { OpenSettings(readOnly: false, cache: cache) }

    private func using(_ node: BlockNode, isZero: Bool, _ body: (BlockNode, Bool) throws -> Void) throws {
        try context.closing(node) { node in try body(node, isZero) }
    }

    private func standardOutput() -> BlockNode {
        BlockNode(.storage(StandardOutputDriver()), filename: name, settings: settings)
    }

    private func openExisting(_ sources: [BlockNode]) throws -> BlockNode {
        let node = try context.open(
            ImageName(name, format: isOptions ? nil : format, isOptions: isOptions), settings: settings)
        do {
            if isKnownZero, node.backing != nil {
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

    /// A backing chain that the target itself is part of would be emptied before the loop is noticed.
    private func refuseOwnBacking() throws {
        guard let backing else { return }
        let path = FileNames.resolve(backing, relativeTo: name)
        let node: BlockNode
        do throws(BlockError) {
            var settings = OpenSettings()
            settings.withoutKeys = true
            node = try context.opener.open(path, format: backingFormat, settings: settings)
        } catch {
            throw error.prefixed("Could not open backing file").prefixed("Could not open '\(name)'")
        }
        let isOwn = context.wouldEmpty(name, readBy: [node])
        try node.close()
        if isOwn { throw CommandFailure("\(name): The target cannot be in its own backing chain") }
    }

    private func creator(size: Int, readFiles: Set<String>) throws -> ImageCreator {
        var creator = try ImageCreator(context, filename: name, format: format, text: text)
        try creator.setBacking(backing, format: backingFormat)
        creator.isQuiet = true
        creator.showsNotes = !isQuiet
        creator.readFiles = readFiles
        creator.options.set(.size, to: String(size))
        if creator.options[.backingFile] != nil, creator.options[.backingFormat] == nil {
            throw CommandFailure("Use of backing file requires explicit backing format")
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

    /// Whether a new image reads as zeroes where nothing is written.
    private static func startsAsZero(_ node: BlockNode) -> Bool {
        if let storage = node.storage { return storage.zeroInitialised }
        return node.backing == nil && node.format?.unwrittenReadsAsZero != false
            && node.children.allSatisfy { $0.storage?.zeroInitialised == true }
    }
}
