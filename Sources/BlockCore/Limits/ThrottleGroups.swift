/// The user's throttle groups, by name.
///
/// Drivers look up the names in their options.
///
/// Thread-safe: an immutable value; the groups are shared.
public struct ThrottleGroups: Sendable {
    private let groups: [String: ThrottleGroup]

    /// - Parameter groups: with different names.
    public init(_ groups: [ThrottleGroup] = []) {
        self.groups = Dictionary(groups.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// The group of that name.
    ///
    /// - Throws: `notFound`.
    public func group(_ name: String) throws(BlockError) -> ThrottleGroup {
        guard let group = groups[name] else {
            throw BlockError(.notFound, "Throttle group '\(name)' does not exist")
        }
        return group
    }
}
