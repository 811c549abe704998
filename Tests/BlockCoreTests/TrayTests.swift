import BlockCore
import BlockTestSupport
import Synchronization
import Testing

/// The tray of a device over files: its medium is the top node.
@Suite(.timeLimit(.minutes(1))) struct TrayTests {
    private let images = TestImages()
    private let bytes = [UInt8](repeating: 7, count: 4096)

    private func node(_ name: String) throws -> BlockNode {
        try images.create(name, size: 1 << 20)
        return try images.open(name)
    }

    @Test func aMediumIsTakenOutAndAnotherPutIn() throws {
        let (first, second) = (try node("first"), try node("second"))
        let device = BlockDevice(name: "cd0", root: first)
        let changes = Mutex<[BlockDevice.MediumChange]>([])
        device.onMediumChange { change in changes.withLock { $0.append(change) } }
        #expect(try device.isInserted() && !device.isTrayOpen() && !device.mediaChanged())
        try device.write(bytes.span.bytes, at: 0)
        images.store.clearLog()
        let out = try device.eject()
        #expect(out === first && first.deviceName == nil)
        // Durable before it is out.
        #expect(images.store.log.contains { if case .flush("first") = $0 { true } else { false } })
        #expect(try device.root == nil && device.isTrayOpen() && !device.isInserted())
        #expect(try device.mediaChanged())
        #expect(try !device.mediaChanged())
        let empty = blockError { () throws(BlockError) in try device.readBytes(at: 0, count: 512) }
        #expect(empty?.kind == .notFound && empty?.errno == 123)
        #expect(try device.eject() == nil)
        try device.load(second)
        #expect(try device.isInserted() && !device.isTrayOpen() && device.mediaChanged())
        #expect(second.deviceName == "cd0")
        #expect(try device.readBytes(at: 0, count: 4096) == [UInt8](repeating: 0, count: 4096))
        let full = blockError { () throws(BlockError) in try device.load(first) }
        #expect(full?.kind == .exists)
        #expect(device.root === second)
        #expect(
            changes.withLock { $0 } == [
                .init(isOpen: true, hasMedium: false), .init(isOpen: true, hasMedium: false),
                .init(isOpen: false, hasMedium: true),
            ])
        #expect(try first.readBytes(at: 0, count: 4096) == bytes)
        try first.close()
        try device.close()
    }

    @Test func aLockedTrayOpensByForce() throws {
        let root = try node("disk")
        let device = BlockDevice(name: "cd0", root: root)
        try device.lock(true)
        let locked = blockError { () throws(BlockError) in try device.eject() }
        #expect(locked?.kind == .busy)
        #expect(locked?.message.contains("Device 'cd0' is locked and force was not specified") == true)
        #expect(try device.root === root && device.isLocked && !device.isTrayOpen())
        #expect(try device.eject(force: true) === root)
        #expect(try !device.isLocked && device.isTrayOpen())
        try device.load(root)
        try device.lock(true)
        try device.lock(false)
        #expect(try device.eject() === root)
        try root.close()
    }

    /// A job keeps the medium in, also against force; also one that uses a node below.
    @Test func aJobKeepsTheMediumIn() throws {
        images.createRaw("base", size: 1 << 20)
        try images.create("top", size: 1 << 20, backing: "base")
        let root = try images.open("top")
        let base = try #require(root.backing)
        let device = BlockDevice(name: "cd0", root: root)
        for used in [root, base] {
            let use = NodeUse(by: "commit")
            try use.begin(on: [used])
            let busy = blockError { () throws(BlockError) in try device.eject(force: true) }
            #expect(busy?.kind == .busy)
            #expect(busy?.message.contains("commit") == true)
            #expect(try device.root === root && !device.isTrayOpen() && !device.mediaChanged())
            use.end(on: [used])
        }
        #expect(try device.eject() === root)
        #expect(root.user == nil && base.user == nil)
        try root.close()
    }

    /// What cannot be flushed stays in.
    @Test func aFailedFlushKeepsTheMediumIn() throws {
        let root = try node("disk")
        let device = BlockDevice(name: "cd0", root: root)
        try device.write(bytes.span.bytes, at: 0)
        images.store.faults.arm(1, .deadFromThen)
        #expect(blockError { () throws(BlockError) in try device.eject() }?.kind == .io)
        images.store.faults.disarm()
        #expect(try device.root === root && !device.isTrayOpen())
        #expect(root.user == nil && root.deviceName == "cd0")
        try device.close()
        #expect(try device.isInserted() == false)
        let late = blockError { () throws(BlockError) in try device.load(root) }
        #expect(late?.kind == .io)
    }
}
