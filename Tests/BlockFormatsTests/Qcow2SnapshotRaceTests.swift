import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// A write that is under way when the image goes back to a snapshot must not land in somebody else's cluster.
@Suite struct Qcow2SnapshotRaceTests {
    @Test(.timeLimit(.minutes(10))) func writeInPlaceDuringApply() throws {
        let store = TestStore()
        let pause = PausePoint()
        let entry = pause.entry(store)
        let opener = ImageOpener(
            registry: DriverRegistry(formats: [Qcow2Driver.self, RawDriver.self], protocols: [entry]))
        var options = try opener.createOptions(format: "qcow2", filename: "disk")
        try options.set(.size, to: "1048576")
        try opener.create("disk", format: "qcow2", options: options)
        let node = try opener.open("disk", format: "qcow2", settings: OpenSettings(readOnly: false))
        let snapshots = try #require(node.format as? any SnapshotCapable)

        try node.write([UInt8](repeating: 1, count: 65536).span.bytes, at: 0)
        try snapshots.createSnapshot(SnapshotInfo(id: "", name: "one"))
        try node.write([UInt8](repeating: 2, count: 65536).span.bytes, at: 0)
        try node.flush()

        pause.arm(count: 1536)
        let writer = pause.hold { try node.write([UInt8](repeating: 3, count: 1536).span.bytes, at: 0) }
        #expect(pause.isReached)
        // Enough to take every cluster that becomes free.
        let other = [UInt8](repeating: 9, count: 8 * 65536)
        let applier = TestThread {
            try snapshots.applySnapshot("one")
            for cluster in 5..<13 {
                try node.write(other.span.bytes.extracting(0..<65536), at: cluster * 65536)
            }
        }
        // Long enough for the snapshot to be applied, if that does not wait for the write.
        applier.wait(milliseconds: 500)
        pause.resume()
        applier.wait()
        writer.wait()
        #expect(try node.readBytes(at: 5 * 65536, count: other.count) == other)
        #expect(try node.readBytes(at: 0, count: 65536) == [UInt8](repeating: 1, count: 65536))
        try node.close()
    }
}
