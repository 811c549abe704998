import BlockCore
import BlockTestSupport
import Testing

@testable import BlockJobs

/// The image that two chains have in common.
@Suite struct SharedBaseTests {
    /// Two chains of the same files, node for node.
    private func chains(of count: Int) throws -> (one: BlockNode, other: BlockNode) {
        var (one, other) = (BlockNode?.none, BlockNode?.none)
        for number in 0..<count {
            let layer = Layers.empty(size: 4096, clusterBytes: 512, name: "\(number)")
            func node(over backing: BlockNode?) -> BlockNode {
                BlockNode(
                    .format(layer.driver), filename: "\(number)", children: layer.node.children,
                    backing: backing)
            }
            (one, other) = (node(over: one), node(over: other))
        }
        return (try #require(one), try #require(other))
    }

    /// Tens of thousands of layers are compared on the stack of a thread.
    @Test(.timeLimit(.minutes(1))) func longChainsNeedNoDeepStack() throws {
        try WorkerThreads.run(1) { (_) throws(BlockError) in
            guard let pair = try? chains(of: 20_000) else { throw BlockError(.io, "no chain") }
            let shared = try SharedBase.find(pair.one, pair.other)
            #expect(shared?.old === pair.one && shared?.new === pair.other)
        }
    }

    @Test func anotherBaseBelowMakesAnotherDisk() throws {
        let pair = try chains(of: 3)
        let bottom = pair.other.chain[2]
        pair.other.chain[1].backing = nil
        #expect(try SharedBase.find(pair.one, pair.other)?.old == nil)
        #expect(try SharedBase.find(pair.one, bottom)?.old === pair.one.chain[2])
    }
}
