import BlockCore

/// Makes an image in the background.
///
/// When the process is killed, or the work fails, what is left of the image has to be removed.
public struct CreateJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "create"
    public static let hasSpeed = false

    private let opener: ImageOpener
    private let filename: String
    private let format: String
    private let options: CreateOptions
    private let rules: CreationRules

    /// - Parameters:
    ///   - format: the name of a format that makes images.
    ///   - options: those of ``ImageOpener/createOptions(format:filename:)``, with values.
    public init(
        opener: ImageOpener, filename: String, format: String, options: CreateOptions,
        rules: CreationRules = CreationRules()
    ) {
        self.opener = opener
        self.filename = filename
        self.format = format
        self.options = options
        self.rules = rules
    }

    /// None: nobody else has the image yet.
    public var nodes: [BlockNode] { [] }

    /// - Throws: `cancelled` before it has begun; as ``ImageOpener/create(_:format:options:rules:)``.
    public func work(_ control: JobControl) throws(BlockError) {
        try control.checkpoint(moving: 0)
        try opener.create(filename, format: format, options: options, rules: rules)
    }
}
