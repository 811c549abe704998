import BlockTestSupport
import Foundation
import Testing

/// Commands whose target's disk becomes full: they fail, leave no space behind that nothing uses, and with
/// more room the same command goes on. Needs root, to mount a file system in memory.
@Suite(.enabled(if: geteuid() == 0)) final class FullDiskCommandTests {
    private let fixture: CommandFixture

    /// What `source.raw` and the overlay hold, and what the disk has room for at first.
    private static let sizes = (disk: "16M", data: "6M", small: "4M", large: "24M")

    init() throws {
        fixture = try CommandFixture()
        let made = try fixture.shell(
            """
            mkdir m && mount -t tmpfs -o size=\(Self.sizes.small) none m &&
            head -c \(Self.sizes.data) /dev/urandom > source.raw && truncate -s \(Self.sizes.disk) source.raw
            """)
        try #require(made.status == 0, "\(made.text)")
    }

    deinit { _ = try? fixture.shell("umount m") }

    private func expect(_ status: Int32, _ line: String, _ place: SourceLocation = #_sourceLocation) throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == status, "\(line): \(outcome.text)", sourceLocation: place)
        if status != 0 { #expect(outcome.error.contains("No space left"), sourceLocation: place) }
    }

    /// The command fails, the image is sound; with more room it works.
    private func goesOn(_ command: String, _ format: String, beside judge: String? = nil) throws {
        try expect(1, command)
        try expect(0, "qemu-img check -f \(format) m/target")
        try expect(0, "mount -o remount,size=\(Self.sizes.large) m && \(command)")
        try expect(0, "qemu-img check -f \(format) m/target")
        try expect(0, "qemu-img compare -f raw -F \(judge ?? format) source.raw m/target")
    }

    static let targets: [(String, String)] = [
        ("qcow2", ""), ("qcow2", "-o cluster_size=4k"), ("qcow2", "-o extended_l2=on"),
        ("qcow2", "-o lazy_refcounts=on"), ("qcow", ""), ("qed", ""), ("vdi", ""),
        ("vpc", "-o force_size=on"), ("vhdx", "-o block_size=1M"), ("vmdk", ""), ("parallels", ""),
    ]

    @Test(arguments: targets) func commit(_ format: String, _ options: String) throws {
        try expect(0, "qemu-img create -q -f \(format) \(options) m/target \(Self.sizes.disk)")
        try expect(
            0,
            """
            qemu-img create -q -f qcow2 -b m/target -F \(format) over.qcow2 &&
            qemu-io -f qcow2 -c 'write -q -s source.raw 0 \(Self.sizes.data)' over.qcow2
            """)
        try goesOn("qemu-img commit -q over.qcow2", format)
    }

    @Test(arguments: targets) func convertOntoAnImage(_ format: String, _ options: String) throws {
        try expect(0, "qemu-img create -q -f \(format) \(options) m/target \(Self.sizes.disk)")
        try goesOn("qemu-img convert -n -f raw -O \(format) source.raw m/target", format)
    }

    @Test(arguments: targets) func manyWrites(_ format: String, _ options: String) throws {
        try expect(0, "qemu-img create -q -f \(format) \(options) m/target \(Self.sizes.disk)")
        let writes = stride(from: 0, to: 6144, by: 48).map { "write -q -s source.raw \($0)k 48k" }
        let requests = writes.map { "-c '\($0)'" }.joined(separator: " ")
        let failed = try fixture.shell("qemu-io -f \(format) \(requests) m/target", linked: true)
        #expect(failed.status == 1 && failed.text.contains("No space left"))
        try expect(0, "qemu-img check -f \(format) m/target")
    }

    @Test(arguments: ["stream", "rebase -b ''"]) func takingOverTheBackingFile(_ command: String) throws {
        let end = command.hasPrefix("stream") ? "m/target" : "-f qcow2 m/target"
        try expect(0, "qemu-img create -q -f qcow2 -b ../source.raw -F raw m/target")
        try goesOn("platter --open-policy=any \(command) \(end)", "qcow2")
    }

    @Test func compressedClusters() throws {
        try expect(0, "qemu-img create -q -f qcow2 m/target \(Self.sizes.disk)")
        // Noise in hexadecimal gets half as long.
        try expect(
            0, "od -An -v -tx1 source.raw | tr -d ' \\n' | head -c 12M > text && mv text source.raw")
        try expect(0, "truncate -s \(Self.sizes.disk) source.raw")
        try goesOn("qemu-img convert -c -n -f raw -O qcow2 source.raw m/target", "qcow2")
    }

    @Test func snapshotsAndSizes() throws {
        try expect(
            0,
            """
            qemu-img create -q -f qcow2 -o cluster_size=512 m/target 3M &&
            qemu-io -c 'write -q 0 3M' m/target && head -c 4M /dev/zero > m/full; rm m/full;
            dd if=/dev/zero of=m/full bs=4k >/dev/null 2>&1; true
            """)
        _ = try fixture.shell("qemu-img snapshot -c one m/target", linked: true)
        _ = try fixture.shell("qemu-img resize m/target 512M", linked: true)
        try expect(0, "rm m/full && qemu-img check -r leaks m/target && qemu-img compare m/target m/target")
        try expect(0, "qemu-img snapshot -c two m/target && qemu-img check m/target")
    }
}
