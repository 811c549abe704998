/// The user's secrets, by id.
///
/// Drivers look up the ids in their options.
///
/// Thread-safe: an immutable value.
public struct SecretSource: Sendable {
    private let secrets: [String: KeyMaterial]

    /// The secrets by their ids.
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
