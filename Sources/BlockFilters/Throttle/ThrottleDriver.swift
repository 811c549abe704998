import BlockCore

/// Makes reads and writes wait for the limits of a group.
///
/// Thread-safe.
///
/// `driver=throttle,file.filename=…,throttle-group=ID`, or with limits of its own:
/// `driver=throttle,file.filename=…,limits.bps-total=…,limits.iops-total=…`
///
/// Requests wait at the filter's node, before they take their ticket: see ``BlockCore/FilterDriver/limiter``.
public final class ThrottleDriver: OpenableFilter {
    public static let name = "throttle"

    public let child: BlockNode
    public let limiter: ThrottleMember?

    /// - Parameter group: may have other members.
    public init(over child: BlockNode, group: ThrottleGroup) {
        self.child = child
        limiter = group.join()
    }

    /// - Throws: `invalidArgument`; `notFound` for a group that does not exist; as
    ///   ``FilterRequest/openChild(_:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> ThrottleDriver {
        let group = try group(request, &options)
        return ThrottleDriver(over: try request.openChild(), group: group)
    }

    private static func group(
        _ request: FilterRequest, _ options: inout OptionTree
    ) throws(BlockError) -> ThrottleGroup {
        // Limits beside a group stay in the options, as ones that the filter does not have.
        if let name = options.take("throttle-group") { return try request.throttleGroup(name) }
        var limits = IOLimits()
        guard try limits.take(from: &options, prefix: "limits.") else {
            throw BlockError(.invalidArgument, "Please specify a throttle group")
        }
        return try ThrottleGroup(limits: limits)
    }
}
