import BlockCore
import BlockTestSupport
import Testing

@Suite struct TemporaryOverlayTests {
    private let images = TestImages()

    private func open(_ name: String, unlinked: inout [String]) throws(BlockError) -> BlockNode {
        var names: [String] = []
        defer { unlinked = names }
        return try images.opener.openTemporaryOverlay(
            over: try images.opener.open(name), at: "scratch", format: "fake", unlink: { names.append($0) })
    }

    @Test func writesGoToTheOverlayOnly() throws {
        images.createRaw("disk", size: 8192)
        var unlinked: [String] = []
        let node = try open("disk", unlinked: &unlinked)
        #expect(unlinked == ["scratch"])
        try node.write([UInt8](repeating: 9, count: 512).span.bytes, at: 4096)
        try node.flush()
        let expected = [UInt8](repeating: 9, count: 512)
        #expect(try node.readBytes(at: 4096, count: 512) == expected)
        #expect(try node.readBytes(at: 0, count: 4096) == Pattern.bytes(stamp: 1, at: 0, count: 4096))
        try node.close()
        #expect(!images.store.log.contains { $0.file == "disk" })
        #expect(images.store.log.contains { $0.file == "scratch" })
    }

    @Test func aFailedOverlayIsRemovedToo() throws {
        images.createRaw("disk", size: 8192)
        images.store.faults.arm(1, .fullFromThen)
        var unlinked: [String] = []
        let error = blockError { () throws(BlockError) in try open("disk", unlinked: &unlinked) }
        #expect(error != nil)
        #expect(unlinked == ["scratch"])
    }
}
