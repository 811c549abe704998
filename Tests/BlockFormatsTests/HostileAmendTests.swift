import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Amending images from strangers, and saving machine state in them: refused or done, never obeyed blindly.
@Suite struct HostileAmendTests {
    private let gauntlet = Gauntlet(formats: StandardFormats.all, format: "qcow2")

    static let changes: [[(String, String)]] = [
        [("refcount_bits", "64")], [("refcount_bits", "1")], [("compat", "0.10"), ("refcount_bits", "16")],
        [("compat", "1.1"), ("lazy_refcounts", "on")], [("size", "1048576")], [("data_file_raw", "off")],
    ]

    private func amend(_ node: BlockNode, _ changes: [(String, String)]) throws(BlockError) {
        var options = CreateOptions(Qcow2Driver.amendOptions)
        for (name, value) in changes { try options.set(name: name, to: value) }
        try node.amend(Amendment(options))
    }

    /// The header is readable as long as it was, and whoever looks at the image survives it.
    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all.enumerated().map { ($0, $1) })
    func amending(_ number: Int, _ damage: HostileCase) throws {
        // Each case gets two of the changes, in a long run all.
        for (index, changes) in Self.changes.enumerated()
        where TestEffort.isLong || (number + index) % 3 == 0 {
            let store = TestStore(["disk": damage.image.bytes])
            _ = try? gauntlet.with(store, readOnly: false) { node throws(BlockError) in
                try amend(node, changes)
                try node.write([UInt8](repeating: 0x79, count: 512).span.bytes, at: 0)
            }
            gauntlet.look(store)
            if damage.refusal == nil { try gauntlet.with(store) { _ in } }
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all.filter { $0.refusal == nil })
    func machineState(_ damage: HostileCase) throws {
        let store = TestStore(["disk": damage.image.bytes])
        let state = [UInt8](repeating: 0x7a, count: 100_000)
        _ = try? gauntlet.with(store, readOnly: false) { node throws(BlockError) in
            for offset in [0, 1 << 36] { try? node.saveVMState(state.span.bytes, at: offset) }
            try node.createSnapshot(SnapshotInfo(id: "", name: "new"))
            let buffer = AlignedBuffer(count: 65536)
            var bytes = buffer.mutableBytes
            try node.loadVMState(into: &bytes, at: 0)
        }
        try gauntlet.with(store) { _ in }
    }
}
