import BlockCore

/// Changes options of an image in place.
///
/// Killed at any moment the image opens with the same guest bytes, and with each option old or new.
public struct AmendJob: BlockJob {
    public static let name = "amend"

    private let node: BlockNode
    private let amendment: Amendment

    public init(node: BlockNode, amendment: Amendment) {
        self.node = node
        self.amendment = amendment
    }

    /// - Throws: `busy`; whatever ``BlockNode/amend(_:_:)`` throws.
    public func run(_ control: JobControl) throws(BlockError) {
        try LayerCopy.using([node], by: Self.name) { () throws(BlockError) in
            try node.amend(amendment, control)
        }
    }
}
