import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A write that failed once is tried again, then the process is killed: the file must still be sound.
@Suite struct Qcow2FailedWriteTests {
    /// What is done once without, and again with every call failing.
    private func retrying(_ node: BlockNode, _ body: () throws -> Void) throws {
        do { try body() } catch is BlockError { try body() }
        do { try node.flush() } catch { try node.flush() }
    }

    private func judge(_ configuration: FormatConfiguration, _ files: [String: SparseBytes]) throws {
        let store = TestStore(files)
        let isDirty = files["disk"]?.hasIncompatible(Qcow2Bytes.Incompatible.dirty) ?? false
        if isDirty {
            // Opening for writing counts the references again.
            try configuration.open(in: store, settings: OpenSettings(readOnly: false)).close()
        }
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false, forCheck: true))
        let checkable = try #require(node.format as? any Checkable)
        let result = try checkable.check(repair: .none) { _ in }
        #expect(result.corruptions == 0)
        try node.close()
    }

    /// Fails each call in turn until `body` meets no failure.
    private func check(
        _ configuration: FormatConfiguration, _ files: [String: SparseBytes],
        _ body: (BlockNode) throws -> Void
    ) throws {
        for number in 1...2000 {
            let store = TestStore(files)
            let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
            store.faults.arm(number, .ioErrorOnce)
            try retrying(node) { try body(node) }
            let failures = store.faults.failures
            store.faults.disarm()
            try judge(configuration, store.files)
            if failures == 0 { return }
        }
        Issue.record("The operation has no end")
    }

    @Test(.timeLimit(.minutes(10))) func growingTheRefcountTable() throws {
        // The first table counts 4096 clusters of 512 bytes.
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "512"), ("refcount_bits", "64")],
            virtualSize: 4 << 20)
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try node.write(Pattern.bytes(stamp: 1, at: 0, count: 2_015_232).span.bytes, at: 0)
        try node.close()
        let field = Qcow2Bytes.Field.refcountOffset
        let table = store["disk"]?.big(at: field)
        let more = Pattern.bytes(stamp: 2, at: 2 << 20, count: 64 << 10)
        try check(configuration, store.files) { node in
            try node.write(more.span.bytes, at: 2 << 20)
            try node.flush()
        }
        let last = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try last.write(more.span.bytes, at: 2 << 20)
        try last.close()
        #expect(store["disk"]?.big(at: field) != table, "The table did not grow")
    }

    /// A flush frees clusters last, and does not fail when only that fails: closing tries it again.
    @Test(.timeLimit(.minutes(2))) func closingReportsTheFirstFailureToFreeClusters() throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "4096")], virtualSize: 1 << 20)
        let made = TestStore()
        _ = try configuration.create(in: made)
        let first = try configuration.open(in: made, settings: OpenSettings(readOnly: false))
        try first.write(Pattern.bytes(stamp: 1, at: 0, count: 64 << 10).span.bytes, at: 0)
        try first.close()
        var kinds: [BlockError.Kind?] = []
        for number in 1...100 {
            let store = TestStore(made.files)
            let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
            try node.discard(at: 0, count: 32 << 10)
            store.faults.arm(number, .ioErrorOnce)
            let isFlushed = (try? node.flush()) != nil
            let failures = store.faults.failures
            // The disk is full when the freeing is tried again.
            store.faults.arm(1, .fullFromThen)
            do {
                try node.close()
                if isFlushed { kinds.append(nil) }
            } catch {
                if isFlushed { kinds.append(error.kind) }
            }
            if failures == 0 { break }
        }
        #expect(kinds.contains(.io), "\(kinds)")
    }

    @Test(.timeLimit(.minutes(10))) func settingTheDirtyBit() throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "4096"), ("lazy_refcounts", "on")],
            virtualSize: 1 << 20)
        let store = TestStore()
        _ = try configuration.create(in: store)
        let bytes = Pattern.bytes(stamp: 1, at: 0, count: 8192)
        try check(configuration, store.files) { node in
            try node.write(bytes.span.bytes, at: 0)
            try node.flush()
        }
    }
}
