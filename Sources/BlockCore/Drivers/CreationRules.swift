/// Decisions and callbacks of the caller of ``ImageOpener/create(_:format:options:rules:)``.
public struct CreationRules: Sendable {
    /// Whether creation fails when the backing file is missing and the format stores its identity in the
    /// image.
    public var needsBacking = true
    /// Called before a file is made or emptied; throws, with any kind, to refuse that.
    public var willMake: @Sendable (_ filename: String) throws(BlockError) -> Void = { (_) in }
    /// Called once the file exists in its full size.
    public var didMake: @Sendable (_ filename: String) -> Void = { _ in }
    /// Gets remarks about the new image that are no errors, one line a call.
    public var note: @Sendable (_ text: String) -> Void = { _ in }

    /// Rules that need the backing file, and refuse nothing.
    public init() {}
}
