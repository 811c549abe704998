import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// The readers of dissect.hypervisor (Python), as a third opinion beside QEMU and 7-Zip.
///
/// Scripts/test installs them into .build/peers. In CI their absence is a failure; elsewhere the tests are
/// skipped then.
enum Dissect {
    private static let top = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent()
    static let folder = top.appending(path: ".build/peers").path
    static let script = top.appending(path: "Tests/Fixtures/interop/dissect_read.py").path
    static let isExpected =
        ProcessInfo.processInfo.environment["CI"] != nil
        || FileManager.default.fileExists(atPath: folder + "/installed.txt")

    /// The shell's words that make dissect write an image's disk into a file.
    static func read(_ format: String, _ image: String, to output: String, parent: String = "") -> String {
        "PYTHONPATH=\(folder) python3 -B \(script) \(format) \(image) \(output) \(parent)"
    }

    /// The formats that it reads.
    static let formats = ["qcow2", "vdi", "vpc", "vhdx", "vmdk", "parallels"]
}

@Suite(.enabled(if: Dissect.isExpected)) struct DissectInteropTests {
    /// Formats and create options that we write and it reads. It fails on QEMU's own images with subclusters,
    /// and inflates clusters of qcow2 with too small a window.
    static let forms: [(format: String, options: String)] = [
        ("qcow2", "compat=1.1"), ("qcow2", "compat=0.10,cluster_size=4096"), ("qcow2", "cluster_size=2M"),
        ("vdi", "static=off"), ("vdi", "static=on"),
        ("vpc", "subformat=dynamic,force_size=on"), ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=dynamic"), ("vhdx", "subformat=fixed"), ("vhdx", "block_size=2M"),
        ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vmdk", "subformat=streamOptimized"),
        ("parallels", "cluster_size=1M"), ("parallels", "cluster_size=64k"),
    ].filter { form in
        StandardFormats.all.contains { $0.name == form.format && $0 is any Creatable.Type }
    }

    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
    }

    @Test func thereAreSome() { #expect(Self.forms.count >= 5) }

    @Test(.timeLimit(.minutes(3)), arguments: Self.forms.indices) func weWriteItReads(_ index: Int) throws {
        let (format, options) = Self.forms[index]
        // Whole MiB: it reads disks in steps, past the end of a last one that is not whole.
        var disk = SparseBytes(count: 9 << 20)
        for (offset, count) in [(0, 5000), (1 << 20, 3 << 19), (5_000_000, 70_000), (disk.count - 512, 512)] {
            disk.write(Pattern.bytes(stamp: 4, at: offset, count: count, noise: true), at: offset)
        }
        try disk.store(at: fixture.path("disk.raw"))
        try run(
            """
            platter convert -f raw -O \(format) -o \(options) disk.raw a.\(format)
            \(Dissect.read(format, "a.\(format)", to: "out.raw"))
            cmp disk.raw out.raw
            """)
    }

    @Test(.timeLimit(.minutes(1))) func overlays() throws {
        try Data(Pattern.bytes(stamp: 1, at: 0, count: 3 << 20)).write(
            to: URL(filePath: fixture.path("base.raw")))
        try run(
            """
            platter create -q -f qcow2 -b base.raw -B raw top.qcow2
            qemu-io -c 'write -P 7 1M 100k' -c 'write -z 2M 64k' top.qcow2
            \(Dissect.read("qcow2", "top.qcow2", to: "out.raw", parent: "base.raw"))
            platter compare -F raw top.qcow2 out.raw
            """)
    }

    /// Other vendors' images, as far as it knows the format and the disk is not huge.
    static let samples = SampleTests.samples.filter { sample in
        Dissect.formats.contains(sample[1]) && (Int(sample[2]) ?? .max) <= 1 << 30
    }

    @Test(.timeLimit(.minutes(3)), arguments: samples) func bothReadTheSamples(_ sample: [String]) throws {
        try run(
            """
            bzcat \(SampleTests.folder.path)/\(sample[0]).bz2 > \(sample[0])
            \(Dissect.read(sample[1], sample[0], to: "out.raw"))
            platter compare -f \(sample[1]) -F raw \(sample[0]) out.raw
            """)
    }
}
