/// The changes to the options of an existing image.
public struct Amendment: Sendable {
    /// Declared as ``Amendable/amendOptions``; options that are not set stay unchanged.
    public var options: CreateOptions
    /// Whether to make changes that may leave the image's data unreadable for good.
    public var force: Bool
    /// The secrets that options such as `new-secret` name.
    public var secrets: SecretSource
    /// Gets warnings about changes that are made, one line a call.
    public var warn: @Sendable (String) -> Void

    /// An amendment by `options`, without force, secrets or a receiver of warnings if these are left out.
    public init(
        _ options: CreateOptions, force: Bool = false, secrets: SecretSource = .none,
        warn: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        self.options = options
        self.force = force
        self.secrets = secrets
        self.warn = warn
    }
}

/// Changes options of an image in place.
public protocol Amendable: FormatDriver {
    /// The options that `amend` takes, without defaults.
    static var amendOptions: [CreateOption] { get }
    /// Makes the changes. Durable on return. If interrupted, the image opens with the same guest bytes, and
    /// each option has its old or its new value.
    ///
    /// All options are checked first, so that a refusal changes nothing.
    /// - Parameters:
    ///   - guest: reads and writes the disk through its backing chain.
    ///   - control: gets the progress, and may cancel the work.
    /// - Throws: `invalidArgument` or `unsupported`, naming the option that cannot change; `limit`,
    ///   `cancelled`, `noSpace`, `io`, `corrupt`.
    func amend(
        _ amendment: Amendment, guest: GuestAccess, _ control: JobControl
    ) throws(BlockError)
}

extension BlockNode {
    /// Changes options of the image, after waiting until no other request is under way.
    ///
    /// Durable on return.
    ///
    /// - Throws: as ``Amendable/amend(_:guest:_:)``; `unsupported` when the format has no such changes;
    ///   `readOnly`.
    public func amend(_ amendment: Amendment, _ control: JobControl = JobControl()) throws(BlockError) {
        try checkWritable()
        guard let driver = format?.asAmendable else {
            throw BlockError(
                .unsupported, "Format driver '\(driverName)' does not support option amendment",
                path: filename)
        }
        let ticket = requests.acquire(0..<Int.max, exclusive: true)
        defer { requests.release(ticket) }
        try checkUnused()
        try driver.amend(amendment, guest: GuestAccess(self, driver), control)
    }
}
