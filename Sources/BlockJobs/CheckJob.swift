import BlockCore
import Synchronization

/// Checks an image's tables and repairs them.
public final class CheckJob: BlockJob {
    /// The job's name, in lists and in messages about a node in use.
    public static let name = "check"
    public static let hasSpeed = false

    private let node: BlockNode
    private let repair: RepairMode
    private let report: @Sendable (String) -> Void
    private let found = Mutex<CheckResult?>(nil)

    /// - Parameters:
    ///   - node: the image; writable for a repair.
    ///   - report: gets one line of text per finding.
    public init(_ node: BlockNode, repair: RepairMode, report: @escaping @Sendable (String) -> Void) {
        self.node = node
        self.repair = repair
        self.report = report
    }

    public var nodes: [BlockNode] { [node] }

    /// The result of the last run; `nil` before the first one and after one that failed.
    public var result: CheckResult? { found.withLock { $0 } }

    /// - Throws: `unsupported` for a format without checks; as ``Checkable/check(repair:report:)``;
    ///   `cancelled` before it has begun.
    public func work(_ control: JobControl) throws(BlockError) {
        found.withLock { $0 = nil }
        try control.checkpoint(moving: 0)
        guard let driver = node.format?.asCheckable else {
            throw BlockError(
                .unsupported, "This image format does not support checks", path: node.filename)
        }
        let result = try driver.check(repair: repair, report: report)
        found.withLock { $0 = result }
    }
}
