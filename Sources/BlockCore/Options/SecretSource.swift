/// The secrets that the user gave, by their ids. Drivers look up the ids that their options name.
///
/// Thread-safe: an immutable value.
public struct SecretSource: Sendable {
    private let secrets: [String: KeyMaterial]

    public init(_ secrets: [String: KeyMaterial] = [:]) { self.secrets = secrets }

    /// No secrets.
    public static let none = SecretSource()

    /// The secret with that id.
    ///
    /// - Throws: `notFound`, naming the id.
    public func secret(_ id: String) throws(BlockError) -> KeyMaterial {
        guard let secret = secrets[id] else { throw BlockError(.notFound, "No secret with id '\(id)'") }
        return secret
    }
}
