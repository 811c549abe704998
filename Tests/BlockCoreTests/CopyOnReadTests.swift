import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Copy-on-read that jobs turn on and off.
@Suite(.timeLimit(.minutes(1))) struct CopyOnReadTests {
    private let store = TestStore()
    private let cluster = 4096

    private var images: TestImages { TestImages(store) }

    private func chain() throws {
        images.createRaw("base", size: 1 << 16)
        try images.create("middle", size: 1 << 16, backing: "base")
        try images.create("top", size: 1 << 16, backing: "middle")
    }

    private func isCopied(_ node: BlockNode, _ index: Int) throws -> Bool {
        if case .data = try node.layerExtent(at: index * cluster, limit: cluster).status { return true }
        return false
    }

    private func read(_ node: BlockNode, _ index: Int) throws {
        let expected = Pattern.bytes(stamp: 1, at: index * cluster, count: 512)
        #expect(try node.readBytes(at: index * cluster, count: 512) == expected)
    }

    @Test func usersAreCounted() throws {
        try chain()
        let node = try images.open("top")
        try read(node, 0)
        #expect(try !node.copiesOnRead && !isCopied(node, 0))
        try node.enableCopyOnRead()
        try node.enableCopyOnRead()
        node.disableCopyOnRead()
        #expect(node.copiesOnRead)
        try read(node, 1)
        #expect(try isCopied(node, 1))
        node.disableCopyOnRead()
        #expect(!node.copiesOnRead)
        // One too many.
        node.disableCopyOnRead()
        try read(node, 2)
        #expect(try !isCopied(node, 2))
        try node.enableCopyOnRead()
        try read(node, 2)
        #expect(try isCopied(node, 2))
        try node.close()
    }

    /// The user's own setting stays, whatever jobs do.
    @Test func theSettingIsAUserToo() throws {
        try chain()
        var settings = OpenSettings(readOnly: false)
        settings.copyOnRead = true
        let node = try images.opener.open("top", settings: settings)
        try node.enableCopyOnRead()
        node.disableCopyOnRead()
        #expect(node.copiesOnRead)
        try read(node, 3)
        #expect(try isCopied(node, 3))
        try node.close()
    }

    @Test func nodesThatCannotCopyRefuse() throws {
        try chain()
        let node = try images.open("top", readOnly: true)
        #expect(blockError { () throws(BlockError) in try node.enableCopyOnRead() }?.kind == .readOnly)
        let file = try #require(node.file)
        #expect(blockError { () throws(BlockError) in try file.enableCopyOnRead() }?.kind == .unsupported)
        #expect(!node.copiesOnRead && !file.copiesOnRead)
        try node.close()
    }

    @Test func aNodeInTheMiddleCopies() throws {
        try chain()
        let node = try images.open("top")
        let middle = try #require(node.backing)
        try middle.reopen(readOnly: false)
        try middle.enableCopyOnRead()
        try read(node, 5)
        #expect(try isCopied(middle, 5) && !isCopied(node, 5))
        middle.disableCopyOnRead()
        try read(node, 6)
        #expect(try !isCopied(middle, 6))
        try node.close()
        // The copy is in the file: without its base the layer still has it.
        store["base"] = SparseBytes([UInt8](repeating: 0xEE, count: 1 << 16))
        let again = try images.open("middle", readOnly: true)
        try read(again, 5)
        try again.close()
    }

    /// A write to a cluster that is being copied waits; its bytes are not overwritten by the old ones.
    @Test func copyingAndWritingTakeTurns() throws {
        try chain()
        let pause = PausePoint()
        let registry = DriverRegistry(
            formats: [FakeFormat.self, RawDriver.self], protocols: [pause.entry(store)])
        let opener = ImageOpener(registry: registry, policy: .anyFile)
        let node = try opener.open("top", settings: OpenSettings(readOnly: false))
        try node.enableCopyOnRead()
        pause.arm(count: cluster)
        let reader = pause.hold { _ = try node.readBytes(at: 0, count: 512) }
        #expect(pause.isReached)
        let new = [UInt8](repeating: 9, count: 512)
        let writer = TestThread { try node.write(new.span.bytes, at: 1024) }
        // Another cluster does not wait.
        try node.write(new.span.bytes, at: cluster * 2)
        #expect(!writer.wait(milliseconds: 20))
        pause.resume()
        reader.wait()
        writer.wait()
        var expected = Pattern.bytes(stamp: 1, at: 0, count: cluster)
        expected.replaceSubrange(1024..<1536, with: new)
        #expect(try node.readBytes(at: 0, count: cluster) == expected)
        try node.close()
        let again = try images.open("top", readOnly: true)
        #expect(try again.readBytes(at: 0, count: cluster) == expected)
        try again.close()
    }

    /// Turning it off waits for a copy that is under way.
    @Test func turningOffWaitsForCopies() throws {
        try chain()
        let pause = PausePoint()
        let registry = DriverRegistry(
            formats: [FakeFormat.self, RawDriver.self], protocols: [pause.entry(store)])
        let node = try ImageOpener(registry: registry, policy: .anyFile).open(
            "top", settings: OpenSettings(readOnly: false))
        try node.enableCopyOnRead()
        pause.arm(count: cluster)
        let reader = pause.hold { _ = try node.readBytes(at: 0, count: 512) }
        #expect(pause.isReached)
        let job = TestThread { node.disableCopyOnRead() }
        #expect(!job.wait(milliseconds: 20))
        pause.resume()
        reader.wait()
        job.wait()
        #expect(try isCopied(node, 0) && !node.copiesOnRead)
        try node.close()
    }
}
