import BlockTestSupport
import Foundation
import Testing

/// Apple's disk images that Tests/Scripts/dmg_writer.py makes, read by us and by others.
@Suite(.enabled(if: Peer.isExpected)) struct DmgInteropTests {
    static let writer = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Scripts/dmg_writer.py").path

    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws -> String {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
        return outcome.output
    }

    /// A disk of 3 MiB with text, zeroes and noise.
    private func makeDisk() throws {
        let noise = Pattern.bytes(stamp: 1, at: 0, count: 1 << 20, noise: true)
        var disk = noise.map { 97 + $0 % 16 } + [UInt8](repeating: 0, count: 1 << 20)
        disk += noise.prefix(1 << 18) + Pattern.bytes(stamp: 2, at: 0, count: 3 << 18)
        try fixture.write("disk.raw", disk)
    }

    @Test(
        .timeLimit(.minutes(3)),
        arguments: ["raw,zlib", "zlib", "adc", "bzip2", "lzma", "raw,adc,zlib,bzip2,lzma"],
        ["--chunk 262144", "--chunk 65536 --parts 3", "--old --parts 5"])
    func othersReadTheSame(methods: String, form: String) throws {
        try makeDisk()
        _ = try run(
            """
            python3 -B \(Self.writer) --methods \(methods) \(form) disk.raw a.dmg
            platter convert -O raw a.dmg p.raw
            cmp disk.raw p.raw
            platter check a.dmg
            platter compare a.dmg disk.raw
            7z e -so a.dmg > z.raw
            cmp disk.raw z.raw
            """)
        guard methods == "zlib" || methods == "raw,zlib" else { return }
        _ = try run(
            """
            /usr/bin/qemu-img convert -f dmg -O raw a.dmg q.raw
            cmp disk.raw q.raw
            common='/^Format specific/,$d;/^Child/,$d;/disk size/d;p'
            for tool in /usr/bin/qemu-img platter; do
                $tool info a.dmg | sed -n "$common" > $(basename $tool).txt
            done
            cmp qemu-img.txt platter.txt
            """)
    }

    /// Streams of Apple's encoder.
    @Test(.timeLimit(.minutes(1)), arguments: ["lzfse", "mixed", "adc", "bzip2", "lzma", "zlib"])
    func sevenZipReadsTheFixtures(_ name: String) throws {
        try fixture.write("disk.raw", DmgFixture.disk)
        let tail = name == "mixed" ? "true" : "cmp disk.raw z.raw"
        _ = try run(
            """
            platter convert -O raw \(DmgFixture.path(name)) p.raw
            cmp disk.raw p.raw
            7z e -so \(DmgFixture.path(name)) > z.raw || \(name == "mixed")
            \(tail)
            """)
    }

    @Test func statusesOfCheck() throws {
        try makeDisk()
        _ = try run("python3 -B \(Self.writer) --chunk 65536 disk.raw a.dmg")
        var bytes = try fixture.read("a.dmg")
        #expect(try fixture.platter("check", "a.dmg").status == 0)
        bytes[5000] ^= 1
        try fixture.write("a.dmg", bytes)
        let outcome = try fixture.platter("check", "a.dmg")
        #expect(outcome.status == 2 && outcome.text.contains("The chunk of sector 0 cannot"), "\(outcome)")
        let repair = try fixture.platter("check", "-r", "all", "a.dmg")
        #expect(repair.status == 1 && repair.text.contains("can only be read"), "\(repair)")
        let salvaged = try fixture.platter("convert", "--salvage", "-O", "raw", "a.dmg", "p.raw")
        #expect(salvaged.status == 0, "\(salvaged)")
        let whole = try fixture.read("disk.raw")
        #expect(try fixture.read("p.raw") == [UInt8](repeating: 0, count: 65536) + whole[65536...])
    }

    /// Chunks that inflate to the most that is allowed, and dictionaries that are larger: within the memory.
    @Test(.timeLimit(.minutes(5)), arguments: ["zlib", "bzip2", "lzma", "raw"]) func memory(_ method: String)
        throws
    {
        _ = try run(
            """
            python3 - <<'END'
            line = bytes(range(256)) * 4096
            with open("disk.raw", "wb") as disk:
                for number in range(128):
                    disk.write(line)
            END
            python3 -B \(Self.writer) --methods \(method) --chunk 33554432 disk.raw a.dmg
            """)
        let runner = try MeasuredRunner()
        let outcome = try runner.platter(
            ["convert", "-m", "8", "-W", "-O", "raw", "a.dmg", "p.raw"], in: fixture.folder, seconds: 120)
        #expect(outcome.status == 0 && outcome.peakKiB < 100_000, "\(outcome)")
        _ = try run("cmp disk.raw p.raw")
        let check = try runner.platter(["check", "a.dmg"], in: fixture.folder, seconds: 120)
        #expect(check.status == 0 && check.peakKiB < 100_000, "\(check)")
    }
}
