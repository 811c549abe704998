/// What the caller of ``ImageOpener/create(_:format:options:rules:)`` wants to decide and to hear of.
public struct CreationRules: Sendable {
    /// Whether a format that notes in the image which backing file it has fails where that is not there.
    public var needsBacking = true
    /// Called before a file is made or emptied; throws where that would destroy something.
    public var willMake: @Sendable (_ filename: String) throws(BlockError) -> Void = { (_) in }
    /// Called once the file is there, of its full size.
    public var didMake: @Sendable (_ filename: String) -> Void = { _ in }
    /// Gets what a person should know of the new image, a line a call.
    public var note: @Sendable (_ text: String) -> Void = { _ in }

    public init() {}
}
