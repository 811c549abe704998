import BlockCore
import BlockTestSupport
import Synchronization
import Testing

@Suite(.timeLimit(.minutes(1))) struct BlockDeviceTests {
    private let images = TestImages()

    private func device(_ policy: BlockDevice.ErrorPolicy) throws -> BlockDevice {
        try images.create("disk", size: 1 << 20)
        let device = BlockDevice(name: "disk0", root: try images.open("disk"))
        device.policy = policy
        return device
    }

    private let bytes = [UInt8](repeating: 7, count: 4096)

    @Test func errorsAreReported() throws {
        let device = try device(.init())
        images.store.faults.arm(1, .deadFromThen)
        #expect(
            blockError { () throws(BlockError) in try device.write(bytes.span.bytes, at: 0) }?.kind == .io)
        #expect(device.ioStatus == .ok && !device.isStopped)
        images.store.faults.disarm()
        try device.close()
    }

    @Test func errorsAreIgnored() throws {
        let device = try device(.init(read: .ignore, write: .ignore))
        try device.write(bytes.span.bytes, at: 0)
        images.store.faults.arm(1, .deadFromThen)
        try device.write(bytes.span.bytes, at: 65_536)
        #expect(try device.readBytes(at: 0, count: 4096) == [UInt8](repeating: 0, count: 4096))
        images.store.faults.disarm()
        #expect(try device.readBytes(at: 0, count: 4096) == bytes)
        // What lies outside the disk is the guest's own fault.
        #expect(
            blockError { () throws(BlockError) in try device.write(bytes.span.bytes, at: 1 << 20) }?.kind
                == .io)
        try device.close()
    }

    /// A full disk stops the device; the write is tried again at `resume()`.
    @Test func aFullDiskStopsTheDevice() throws {
        let device = try device(.init())
        images.store.faults.arm(1, .fullFromThen)
        let writer = TestThread { [self] in try device.write(bytes.span.bytes, at: 0) }
        #expect(device.waitUntilStopped())
        #expect(device.ioStatus == .noSpace && !writer.isEnded)
        images.store.faults.disarm()
        device.resume()
        writer.wait()
        #expect(device.ioStatus == .ok)
        #expect(try device.readBytes(at: 0, count: 4096) == bytes)
        try device.close()
    }

    @Test func aReadStopsTheDeviceAndCloseEndsTheWait() throws {
        let device = try device(.init(read: .stop))
        try device.write(bytes.span.bytes, at: 0)
        images.store.faults.arm(1, .deadFromThen)
        let failure = Mutex<BlockError.Kind?>(nil)
        let reader = TestThread {
            let error = blockError { () throws(BlockError) in try device.readBytes(at: 0, count: 512) }
            failure.withLock { $0 = error?.kind }
        }
        #expect(device.waitUntilStopped())
        #expect(device.ioStatus == .failed)
        device.resetIOStatus()
        #expect(device.ioStatus == .ok && device.isStopped)
        images.store.faults.disarm()
        try device.close()
        reader.wait()
        #expect(failure.withLock { $0 } == .io)
    }

    /// Requests that wait for a change of the top node go to the new one.
    @Test func requestsFollowTheTop() throws {
        try images.create("other", size: 1 << 20)
        let device = try device(.init())
        let (old, new) = (try #require(device.root), try images.open("other"))
        let started = Monitor(false)
        let writer = Mutex<TestThread?>(nil)
        try device.drained { () throws(BlockError) in
            writer.withLock { writer in
                writer = TestThread { [self] in
                    started.withLock { $0 = true }
                    started.notifyAll()
                    try device.write(bytes.span.bytes, at: 0)
                }
            }
            started.wait(until: { $0 }) { _ in }
            try device.replaceRoot(old, with: new)
        }
        writer.withLock { $0 }?.wait()
        #expect(try new.readBytes(at: 0, count: 4096) == bytes)
        #expect(try old.readBytes(at: 0, count: 4096) != bytes)
        #expect(new.deviceName == "disk0")
        #expect(
            blockError { () throws(BlockError) in try device.replaceRoot(old, with: nil) }?.kind
                == .invalidArgument)
        try old.close()
        try device.close()
    }

    @Test func withoutAMedium() throws {
        let device = BlockDevice(name: "cd", root: nil)
        #expect(blockError { () throws(BlockError) in try device.readBytes(at: 0, count: 1) }?.errno == 123)
        try device.close()
    }

    @Test func writesThroughAreFlushed() throws {
        let device = try device(.init())
        device.writesThrough = true
        let before = images.store.log.count { if case .flush = $0 { true } else { false } }
        try device.write(bytes.span.bytes, at: 0)
        let after = images.store.log.count { if case .flush = $0 { true } else { false } }
        #expect(after > before)
        try device.close()
    }
}
