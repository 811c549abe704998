import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Writing to images whose tables lie: never over metadata; the image gets its corrupt bit instead.
@Suite struct HostileWriteTests {
    enum Change: String, CaseIterable, Sendable {
        case partialWrite, wholeWrite, zeroes, discard, snapshot
    }

    /// Images that would have metadata written over, by what they say.
    private static let names: Set<String> = [
        "data is the refcount table", "data is the refcount block", "data is the L1", "data is the L2",
        "L2 table is the L1", "L2 table is the refcount table", "L2 table is the refcount block",
        "refcount block is the header", "refcount block is an L2 table", "refcount block used twice",
        "refcount table overlaps the L1", "refcount table is its own block", "L2 table used twice",
        "snapshot: L1 is the active one", "snapshot: L1 is the active one, and all is counted",
    ]
    private static let cases = HostileCase.all.filter { names.contains($0.name) }

    @Test func casesAreThere() { #expect(Self.cases.count == Self.names.count) }

    @Test(arguments: cases, Change.allCases)
    func neverOverMetadata(_ damage: HostileCase, _ change: Change) throws {
        let image = damage.image
        let store = TestStore(["disk": image.bytes])
        let gauntlet = Gauntlet(formats: StandardFormats.all, format: "qcow2")
        let failure = blockError { () throws(BlockError) in
            try gauntlet.with(store, readOnly: false) { node throws(BlockError) in
                try make(change, on: node, clusterSize: image.clusterSize)
                try node.flush()
            }
        }
        let isData = damage.name.hasPrefix("data is")
        // Taking a snapshot of wrong data writes none of it.
        if isData && change == .snapshot { return }
        let after = try #require(store["disk"])
        #expect(failure?.kind == .corrupt, "\(failure as Any)")
        #expect(after.hasIncompatible(Qcow2Bytes.Incompatible.corrupt), "the corrupt bit is not set")
        // All that may differ is that bit, and the L2 entry that was to change.
        for start in stride(from: 0, to: image.l2, by: 512) where start != 0 {
            #expect(after.read(at: start, count: 512) == image.bytes.read(at: start, count: 512), "\(start)")
        }
        let again = blockError { () throws(BlockError) in try gauntlet.with(store, readOnly: false) { _ in } }
        #expect(again?.kind == .corrupt, "it takes changes again")
    }

    private func make(_ change: Change, on node: BlockNode, clusterSize: Int) throws(BlockError) {
        switch change {
        case .partialWrite: try node.write([UInt8](repeating: 0x77, count: 512).span.bytes, at: 512)
        case .wholeWrite:
            try node.write([UInt8](repeating: 0x77, count: clusterSize).span.bytes, at: 0)
        case .zeroes: try node.writeZeroes(at: 0, count: clusterSize, flags: .mayUnmap)
        case .discard: try node.discard(at: 0, count: clusterSize)
        case .snapshot: try node.createSnapshot(SnapshotInfo(id: "", name: "new"))
        }
    }
}
