/// What is to change about an image that exists.
public struct Amendment: Sendable {
    /// Declared as ``Amendable/amendOptions``; what is not set stays as it is.
    public var options: CreateOptions
    /// Do also what may make the image's data unreadable for good.
    public var force: Bool
    /// What options such as `new-secret` name.
    public var secrets: SecretSource
    /// Gets what a person should know of a change that is made all the same.
    public var warn: @Sendable (String) -> Void

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
    /// Makes the changes. Durable on return; interrupted, the image opens with the same guest bytes, and with
    /// each of the options as before or as asked for.
    ///
    /// What is asked for is checked first, so that a refusal changes nothing.
    /// - Parameters:
    ///   - guest: reads and writes the disk through its backing chain.
    ///   - control: is told how far the work is, and may cancel it.
    /// - Throws: `invalidArgument` or `unsupported` for what cannot be, naming the option; `limit`,
    ///   `cancelled`, `noSpace`, `io`, `corrupt`.
    func amend(
        _ amendment: Amendment, guest: GuestAccess, _ control: JobControl
    ) throws(BlockError)
}

extension BlockNode {
    /// Changes options of the image when no other request is under way. Durable on return.
    ///
    /// - Throws: also `unsupported` when the format cannot; `readOnly`.
    public func amend(_ amendment: Amendment, _ control: JobControl = JobControl()) throws(BlockError) {
        try checkWritable()
        guard let driver = format as? any Amendable else {
            throw BlockError(
                .unsupported, "Format driver '\(driverName)' does not support option amendment",
                path: filename)
        }
        let ticket = requests.acquire(0..<Int.max, exclusive: true)
        defer { requests.release(ticket) }
        try driver.amend(amendment, guest: GuestAccess(self, driver), control)
    }
}
