import BlockTestSupport
import Foundation
import Testing

/// A file system whose files share blocks (XFS, else btrfs), on a loop device in a test's folder.
final class ReflinkVolume {
    let fixture: CommandFixture

    /// Why there is none here; `nil` where there is.
    static let obstacle: String? = {
        if geteuid() != 0 { return "mounting needs root" }
        do { _ = try ReflinkVolume() } catch { return "\(error)" }
        return nil
    }()

    struct Missing: Error, CustomStringConvertible { var description: String }

    init() throws {
        fixture = try CommandFixture()
        let made = try fixture.shell(
            """
            mkdir m && truncate -s 512M volume &&
            { mkfs.xfs -q -m reflink=1 volume || mkfs.btrfs -q volume; } && mount -o loop volume m
            """)
        guard made.status == 0 else { throw Missing(description: "no loop device or mkfs: \(made.error)") }
    }

    deinit { _ = try? fixture.shell("umount m || umount -l m") }
}

/// Commands on a file system with reflinks: what is copied takes no space of its own.
@Suite(
    .enabled(if: ReflinkVolume.obstacle == nil, "no file system with reflinks can be mounted here"),
    .serialized)
struct ReflinkCommandTests {
    private let volume: ReflinkVolume
    private var fixture: CommandFixture { volume.fixture }

    init() throws {
        volume = try ReflinkVolume()
        try expect("head -c 32M /dev/urandom > m/a.raw && truncate -s 48M m/a.raw && sync m/a.raw")
    }

    private func expect(_ line: String, _ place: SourceLocation = #_sourceLocation) throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == 0, "\(line): \(outcome.text)", sourceLocation: place)
    }

    /// How many MiB less are free after a command.
    private func space(_ line: String, _ place: SourceLocation = #_sourceLocation) throws -> Int {
        let free = "sync -f m; stat -f -c '%f %S' m"
        let before = try fixture.shell(free).output.split(whereSeparator: \.isWhitespace).compactMap {
            Int($0)
        }
        try expect(line, place)
        let after = try fixture.shell(free).output.split(whereSeparator: \.isWhitespace).compactMap {
            Int($0)
        }
        try #require(before.count == 2 && after.count == 2)
        return ((before[0] - after[0]) * before[1]) >> 20
    }

    @Test func convertSharesSpaceBothWays() throws {
        #expect(try space("platter convert -f raw -O qcow2 m/a.raw m/a.qcow2") < 4)
        #expect(try space("platter convert -O raw m/a.qcow2 m/b.raw") < 4)
        #expect(try space("platter convert -f raw -O raw m/a.raw m/c.raw") < 4)
        #expect(try space("platter convert -O qcow2 -o data_file=d.raw m/a.qcow2 m/d.qcow2") < 4)
        #expect(try space("platter convert -n -C -f raw -O raw m/a.raw m/c.raw") < 4)
        try expect("cmp m/a.raw m/b.raw && cmp m/a.raw m/c.raw && cmp m/a.raw m/d.raw")
        try expect("platter check m/a.qcow2 && platter compare -f raw -F qcow2 m/a.raw m/d.qcow2")
        // Whoever writes gets blocks of his own.
        try expect(
            "platter io -f raw -c 'write -P 1 0 64k' m/b.raw && platter compare -f raw m/a.raw m/a.qcow2")
    }

    /// Space that was promised, and zeroes that are looked for, are not shared.
    @Test func whatAsksForBytesGetsThem() throws {
        #expect(try space("platter convert -f raw -O raw -o preallocation=full m/a.raw m/b.raw") >= 46)
        #expect(try space("platter convert -f raw -O raw -o preallocation=falloc m/a.raw m/c.raw") >= 46)
        #expect(try space("platter convert -f raw -O raw -S 4k m/a.raw m/d.raw") >= 31)
        try expect("platter create -q -f raw m/e.raw 48M")
        #expect(try space("platter convert -n -f raw -O raw m/a.raw m/e.raw") >= 31)
        for name in ["b", "c", "d", "e"] { try expect("cmp m/a.raw m/\(name).raw") }
    }

    @Test func jobsWithinAChainShareSpace() throws {
        try expect(
            """
            platter create -q -f qcow2 -b a.raw -F raw m/o.qcow2 && platter convert -f raw m/a.raw m/want.raw
            platter create -q -f qcow2 -b a.raw -F raw m/r.qcow2
            """)
        #expect(try space("platter stream m/o.qcow2") < 4)
        #expect(try space("platter rebase -b '' m/r.qcow2") < 4)
        for name in ["o", "r"] {
            try expect("platter check m/\(name).qcow2 && platter compare -F raw m/\(name).qcow2 m/want.raw")
        }
        try expect(
            """
            truncate -s 48M m/base.raw && platter create -q -f qcow2 -b base.raw -F raw m/c.qcow2 &&
            platter convert -n -f raw -O qcow2 m/a.raw m/c.qcow2
            """)
        #expect(try space("platter commit -d m/c.qcow2") < 4)
        try expect("cmp m/base.raw m/a.raw && platter commit m/c.qcow2 && cmp m/base.raw m/a.raw")
        try expect("platter check m/c.qcow2 && [ $(stat -c %b m/c.qcow2) -lt 2000 ]")
    }
}
