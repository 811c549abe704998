import BlockCore
import BlockFormats
import BlockProtocols

/// Makes an image for `create`, `convert` and `dd`: checks options and backing file, and announces it.
///
/// Until ``finish()`` the image has a temporary name, and only ``context`` opens it by its own. Call
/// ``finish()`` once the image is whole and closed, or else ``discard()``.
struct ImageCreator {
    /// Opens other images, and the new one before it has its name.
    let context: CommandContext
    let filename: String
    let format: String
    /// Already checked options; ``size`` and the backing file are filled in by ``resolve(size:)``.
    var options: CreateOptions
    /// Whether the backing file is not opened.
    var trustsBacking = false
    var isQuiet = false
    /// Whether to print the format's notes on the new image.
    var showsNotes = true
    /// The identities of files that are read from: making the image must not empty them.
    var readFiles: Set<String> = []
    /// The files of the new image.
    private let files: NewFiles

    /// - Throws: `invalidArgument` or `unsupported` for an unknown format or protocol, and for options that
    ///   they do not take.
    init(
        _ context: CommandContext, filename: String, format: String, text: CreateOptionText
    ) throws(BlockError) {
        files = NewFiles(for: Self.path(of: filename, context.registry) ?? filename)
        self.context = context.making(files)
        self.filename = filename
        self.format = format
        options = try context.opener.createOptions(format: format, filename: filename)
        try text.apply(to: &options)
        if let backingFormat = options[.backingFormat] { try setBacking(format: backingFormat) }
    }

    /// The path of an image's file name; `nil` where that names no plain file.
    private static func path(of name: String, _ registry: DriverRegistry) -> String? {
        guard let (entry, path) = try? registry.resolve(name), entry.name == "file" else { return nil }
        return path
    }

    /// Sets the backing format under the name that other programs know.
    private mutating func setBacking(format: String) throws(BlockError) {
        try options.set(.backingFormat, to: context.registry.canonicalName(format))
    }

    /// Sets the backing file of `-b` and its format.
    ///
    /// - Throws: `unsupported` where the format has no backing file.
    mutating func setBacking(_ name: String?, format backingFormat: String?) throws(BlockError) {
        if let name {
            guard options.declares(.backingFile) else {
                throw BlockError(.unsupported, "Backing file not supported for file format '\(format)'")
            }
            try options.set(.backingFile, to: name)
        }
        if let backingFormat {
            guard options.declares(.backingFormat) else {
                throw BlockError(.unsupported, "Backing format not supported for file format '\(format)'")
            }
            try setBacking(format: backingFormat)
        }
    }

    /// Checks the backing file and decides the size in bytes: `size`, or `-o size=`, or that of the backing
    /// file.
    ///
    /// - Throws: `invalidArgument` for contradictions and without a size; what opening the backing file fails
    ///   with.
    mutating func resolve(size: Int?) throws(BlockError) {
        if let size {
            guard options[.size] == nil else {
                throw BlockError(.invalidArgument, "The image size must be specified only once")
            }
            try options.set(.size, to: String(size))
        }
        try checkBacking()
        // The header of a disk in another file has no size.
        guard options[.size] != nil || options.flag(.detachedHeader) else {
            throw BlockError(.invalidArgument, "Image creation needs a size parameter")
        }
    }

    private mutating func checkBacking() throws(BlockError) {
        guard let name = options[.backingFile] else { return }
        guard !name.isEmpty else {
            throw BlockError(.invalidArgument, "Expected backing file name, got empty string")
        }
        guard !name.isSameName(as: filename) else { throw Self.isItsOwnBacking }
        var detected: String?
        if !trustsBacking { detected = try inspectBacking(name) }
        guard options[.backingFormat] != nil else {
            throw BlockError(
                .invalidArgument, "Backing file specified without backing format",
                hint: detected.map { "Detected format of \($0)." })
        }
    }

    private static let isItsOwnBacking = BlockError(
        .invalidArgument, "Error: Trying to create an image with the same filename as the backing file")

    /// Opens the backing file, also while another program writes to it, takes over its size where none was
    /// given, and returns its format.
    private mutating func inspectBacking(_ name: String) throws(BlockError) -> String {
        let path = FileNames.resolve(name, relativeTo: filename)
        let node: BlockNode
        do throws(BlockError) {
            var settings = OpenSettings(forceShare: true)
            settings.withoutKeys = true
            node = try context.opener.open(path, format: options[.backingFormat], settings: settings)
        } catch {
            var error = error
            error.hint = (error.hint.map { $0 + "\n" } ?? "") + "Could not open backing image."
            throw error
        }
        guard !context.wouldEmpty(filename, readBy: [node]) else {
            try node.close()
            throw Self.isItsOwnBacking
        }
        readFiles.formUnion([node].fileIdentities)
        if options[.size] == nil { try options.set(.size, to: String(try node.length())) }
        let detected = node.driverName
        try node.close()
        return detected
    }

    /// Announces and makes the image.
    func create() throws(BlockError) {
        if !isQuiet {
            context.remark(CreateOptionReport.formattingLine(filename, format: format, options))
            context.terminal.flush()
        }
        if let name = options[.backingFormat], !context.registry.isDriverName(name) {
            throw BlockError(.invalidArgument, "Parameter 'backing-fmt' does not accept value '\(name)'")
        }
        allowNamedFiles()
        UnfinishedFiles.add(files)
        do throws(BlockError) {
            try context.opener.create(filename, format: format, options: options, rules: rules)
        } catch {
            throw error.errno == HostErrors.fileTooBig ? tooLarge : error
        }
    }

    /// Gives the whole image its name.
    ///
    /// - Throws: `exists` when another program has made a file of that name meanwhile.
    func finish() throws(BlockError) {
        defer { UnfinishedFiles.settle(files) }
        do throws(BlockError) { try files.commit() } catch {
            files.discard()
            throw error
        }
    }

    /// Removes the files of the image.
    func discard() {
        files.discard()
        UnfinishedFiles.settle(files)
    }

    /// Allows the files that the user names, since the new image is going to name them.
    private func allowNamedFiles() {
        for key in [CreateOptionKey.backingFile, .dataFile] where options.declares(key) {
            guard let name = options[key], !name.isEmpty else { continue }
            context.opener.policy.allow(FileNames.resolve(name, relativeTo: filename))
        }
    }

    /// Removes the files of the image while another thread makes it, and ends the process as after an
    /// interrupt.
    func abandon() -> Never {
        files.remove()
        SignalWatch.endProcess()
    }

    private var rules: CreationRules {
        var rules = CreationRules()
        rules.needsBacking = !trustsBacking
        rules.willMake = { [context, readFiles] (name) throws(BlockError) in
            if context.wouldEmpty(name, among: readFiles) {
                throw BlockError(.invalidArgument, "Making '\(name)' would empty a file that is read from")
            }
        }
        if showsNotes { rules.note = { [context] text in context.warn(text) } }
        return rules
    }

    /// Begins an image that is written from start to end; `nil` where the format cannot make one with these
    /// options.
    ///
    /// - Parameter storage: the node that gets the bytes instead of a new file.
    func createStream(to storage: BlockNode? = nil) throws(BlockError) -> BlockNode? {
        UnfinishedFiles.add(files)
        do throws(BlockError) {
            return try context.opener.createStream(
                filename, format: format, options: options, rules: rules, to: storage)
        } catch {
            throw error.errno == HostErrors.fileTooBig ? tooLarge : error
        }
    }

    private var tooLarge: BlockError {
        let advice = options.declares(.clusterSize) ? " (try using a larger cluster size)" : ""
        return BlockError(.limit, "The image size is too large for file format '\(format)'\(advice)")
    }
}
