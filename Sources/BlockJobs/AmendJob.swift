import BlockCore

/// Changes options of an image in place.
///
/// When the process is killed at any moment, the image opens with the same guest bytes, and each option has
/// its old or its new value.
public struct AmendJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "amend"
    public static let hasSpeed = false

    private let node: BlockNode
    private let amendment: Amendment

    /// - Parameters:
    ///   - node: the image; writable.
    ///   - amendment: the options to change, and their new values.
    public init(node: BlockNode, amendment: Amendment) {
        self.node = node
        self.amendment = amendment
    }

    public var nodes: [BlockNode] { [node] }

    /// - Throws: `cancelled`; whatever ``BlockNode/amend(_:_:)`` throws.
    public func work(_ control: JobControl) throws(BlockError) { try node.amend(amendment, control) }
}
