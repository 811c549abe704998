import BlockCore

/// Changes options of an image in place.
///
/// When the process is killed at any moment, the image opens with the same guest bytes, and each option has
/// its old or its new value.
public struct AmendJob: BlockJob {
    /// The job's name in the message that a node is in use.
    public static let name = "amend"

    private let node: BlockNode
    private let amendment: Amendment

    /// - Parameters:
    ///   - node: the image; writable.
    ///   - amendment: the options to change, and their new values.
    public init(node: BlockNode, amendment: Amendment) {
        self.node = node
        self.amendment = amendment
    }

    /// - Throws: `busy` when another job uses the node; `cancelled`; whatever ``BlockNode/amend(_:_:)``
    ///   throws.
    public func run(_ control: JobControl) throws(BlockError) {
        try LayerCopy.using([node], by: Self.name) { () throws(BlockError) in
            try node.amend(amendment, control)
        }
    }
}
