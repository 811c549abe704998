import BlockCore
import BlockTestSupport
import Foundation
import Testing

/// Machine state that one program saves and the other loads.
@Suite(.enabled(if: Peer.isExpected)) struct VMStateInteropTests {
    static let options = [
        QemuImage.Options(cluster: 512, size: 40_960), .init(cluster: 65536, size: 1 << 20, backing: 500_000),
        .init(cluster: 4096, size: 300_032, more: ["compat=0.10"]),
    ]
    private static let count = 100_352

    private static func must(_ fixture: CommandFixture, _ script: String) throws {
        let outcome = try fixture.shell("set -eu\nP=\(CommandFixture.platter.path)\n\(script)")
        try #require(outcome.status == 0 && !outcome.text.contains("ailed"), "\(outcome.text)\nin \(script)")
    }

    @Test(arguments: options) func savedByQemu(_ options: QemuImage.Options) throws {
        let fixture = try CommandFixture()
        let image = try QemuImage(options, madeBy: "qemu-img", in: fixture)
        try Self.must(fixture, "qemu-io -f qcow2 -c 'write -b -P 77 512 \(Self.count)' disk.qcow2")
        let node = try image.openOurs()
        defer { try? node.close() }
        var bytes = [UInt8](repeating: 1, count: Self.count + 1024)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        try node.loadVMState(into: &span, at: 0)
        let zeroes = [UInt8](repeating: 0, count: 512)
        #expect(bytes == zeroes + [UInt8](repeating: 77, count: Self.count) + zeroes)
        try node.close()
        try image.judge("saved by qemu-io")
    }

    /// The state, then the snapshot that took it: qemu-img lists its size and goes back to it.
    @Test(arguments: options) func savedByUs(_ options: QemuImage.Options) throws {
        let fixture = try CommandFixture()
        let image = try QemuImage(options, madeBy: "platter", in: fixture)
        let node = try image.openOurs()
        let state = [UInt8](repeating: 78, count: Self.count)
        try node.saveVMState(state.span.bytes, at: 0)
        try node.flush()
        try node.close()
        let read = "qemu-io -f qcow2 -c 'read -b -P %d 0 \(Self.count)' disk.qcow2"
        try Self.must(fixture, String(format: read, 78))
        let again = try image.openOurs()
        try again.saveVMState(state.span.bytes, at: 0)
        try again.createSnapshot(SnapshotInfo(id: "", name: "running"))
        try again.close()
        try Self.must(fixture, String(format: read, 0))
        try image.judge("with a snapshot")
        for program in ["qemu-img", "$P"] {
            try Self.must(fixture, "\(program) snapshot -l disk.qcow2 | grep -q 'running *98 KiB'")
            try Self.must(fixture, "\(program) snapshot -a running disk.qcow2")
            try Self.must(fixture, String(format: read, 78))
            try image.judge("back at the snapshot, by \(program)")
        }
    }
}
