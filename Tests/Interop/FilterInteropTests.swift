import BlockTestSupport
import Foundation
import Testing

/// Filters over files, over formats, on each other and in the middle of a chain, through the commands: what
/// they print and leave behind is what QEMU's tools do.
@Suite struct FilterInteropTests {
    let ours: CommandFixture
    let theirs: CommandFixture?

    private static let top = "driver=blkdebug,image.driver=qcow2,image.file.filename=a.qcow2"

    init() throws {
        ours = try CommandFixture()
        theirs = Peer.isExpected ? try CommandFixture() : nil
        for (fixture, linked) in pairs {
            let made = try fixture.shell(
                """
                set -e; qemu-img create -q -f raw base.raw 1M
                qemu-io -f raw -c 'write -q -P 5 0 128k' base.raw
                qemu-img create -q -f qcow2 -b base.raw -F raw a.qcow2
                qemu-io -f qcow2 -c 'write -q -P 3 64k 64k' a.qcow2
                f='{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'
                f="json:{\\"driver\\":\\"blkdebug\\",\\"image\\":$f}"
                qemu-img create -q -u -f qcow2 -F blkdebug -b "$f" c.qcow2 1M
                qemu-io -f qcow2 -c 'write -q -P 7 512k 64k' c.qcow2
                """, linked: linked)
            guard made.status == 0 else { throw Mismatch(made.text) }
        }
    }

    private var pairs: [(CommandFixture, Bool)] {
        [(ours, true)] + (theirs.map { [($0, false)] } ?? [])
    }

    /// Runs a line with both; what the newer program adds to a map is left out.
    private func outcome(of line: String) throws -> CommandOutcome {
        let mine = try ours.shell(line, linked: true)
        guard let theirs else { return mine }
        let other = try theirs.shell(line)
        #expect(mine.output.replacing(", \"compressed\": false", with: "") == other.output, "\(line)")
        #expect(mine.error == other.error && mine.status == other.status, "\(line): \(mine.text)")
        return mine
    }

    static let reports = [
        "map --image-opts \(top)", "map --output=json --image-opts \(top)", "map c.qcow2",
        "map --output=json c.qcow2", "map blkdebug::c.qcow2", "measure -O qcow2 --image-opts \(top)",
        "map --output=json --image-opts driver=qcow2,file.driver=blkdebug,file.image.driver=blkdebug,"
            + "file.image.image.filename=a.qcow2",
        "map --image-opts driver=blkdebug,image.driver=blkdebug,image.image.filename=base.raw",
        "info --image-opts driver=blkdebug", "info --image-opts driver=blkdebug,image.driver=nosuch",
        "info --image-opts driver=blkdebug,image.driver=file", "info --image-opts \(top),image.nosuch=1",
        "info --image-opts \(top),nosuch=1", "create -f blkdebug x 1M", "check --image-opts \(top)",
        "amend -o compat=0.10 --image-opts \(top)",
        "compare --image-opts \(top) driver=qcow2,file.filename=a.qcow2",
        "convert -c -n --image-opts --target-image-opts driver=raw,file.filename=base.raw \(top)",
    ]

    @Test(arguments: reports) func reportsAgree(_ arguments: String) throws {
        _ = try outcome(of: "qemu-img \(arguments)")
    }

    @Test func infoNamesTheFilter() throws {
        for (options, name) in [
            (Self.top, "blkdebug::a.qcow2"),
            (
                "driver=blkdebug,image.\(Self.top.replacing("image.", with: "image.image."))",
                "blkdebug::blkdebug::a.qcow2"
            ),
        ] {
            for (fixture, linked) in pairs {
                let told = try fixture.shell("qemu-img info --image-opts \(options)", linked: linked)
                #expect(told.status == 0, "\(told.text)")
                #expect(told.output.hasPrefix("image: \(name)\nfile format: blkdebug\nvirtual size: 1 MiB"))
                #expect(told.output.contains("cluster_size: 65536\n"))
                #expect(!told.output.contains("backing file") && !told.output.contains("lazy refcounts"))
            }
        }
    }

    /// What is written, zeroed, committed and resized through a filter ends in the image below it.
    @Test func changesGoThrough() throws {
        let io =
            "qemu-io -c 'write -q -P 4 0 64k' -c 'read -q -P 3 64k 64k' -c 'discard -q 192k 64k'"
            + " -c 'write -q -z 256k 64k' -c 'read -q -P 0 256k 64k' -c map -c length"
            + " --image-opts \(Self.top)"
        let done = try outcome(of: io)
        #expect(done.status == 0, "\(done.text)")
        _ = try outcome(of: "qemu-img snapshot -c s --image-opts \(Self.top)")
        _ = try outcome(of: "qemu-img convert -O raw --image-opts \(Self.top) o.raw")
        _ = try outcome(of: "qemu-img compare o.raw a.qcow2")
        // From the top into a format below a filter, and from that into a raw file.
        _ = try outcome(of: "qemu-img commit c.qcow2")
        _ = try outcome(of: "qemu-img compare a.qcow2 o.raw")
        _ = try outcome(of: "qemu-img commit --image-opts \(Self.top)")
        _ = try outcome(of: "qemu-img compare a.qcow2 base.raw")
        _ = try outcome(of: "qemu-img resize --image-opts \(Self.top) 2M")
        _ = try outcome(of: "qemu-img rebase -u -b '' --image-opts \(Self.top)")
        for name in ["a.qcow2", "c.qcow2"] { _ = try outcome(of: "qemu-img check -q \(name)") }
        if let theirs {
            for name in ["base.raw", "o.raw"] { #expect(try ours.read(name) == theirs.read(name), "\(name)") }
        }
    }

    /// Rules of a filter over a format are about the disk.
    @Test func rulesHoldForTheDisk() throws {
        let rule = "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.sector=128"
        let write = "qemu-io -c 'write -q 0 64k' -c 'write -q 64k 64k' --image-opts"
        let told = try outcome(of: "\(write) \(Self.top),\(rule)")
        #expect(told.status == 1 && told.output == "write failed: Input/output error\n", "\(told.text)")
        _ = try outcome(of: "qemu-img check -q a.qcow2")
    }

    /// Limits in an object; ours may also be options.
    @Test func theThrottleStandsAnywhere() throws {
        let format = "driver=throttle,file.driver=qcow2,file.file.filename=a.qcow2"
        for (fixture, linked) in pairs {
            let object = "--object throttle-group,id=g,limits.bps-total=1000000000"
            let group = ",throttle-group=g"
            let map = try fixture.shell(
                "qemu-img map \(object) --image-opts \(format)\(group)", linked: linked)
            #expect(
                map.output == """
                    Offset          Length          Mapped to       File
                    0               0x10000         0               base.raw
                    0x10000         0x10000         0x50000         a.qcow2

                    """, "\(map.text)")
            let read = "-c 'read -q -P 5 0 64k' -c 'write -q -P 6 0 64k'"
            let io = try fixture.shell(
                "qemu-io \(object) \(read) --image-opts \(format)\(group) && qemu-img compare \(object) "
                    + "--image-opts \(format)\(group) driver=qcow2,file.filename=a.qcow2", linked: linked)
            #expect(io.output == "Images are identical.\n" && io.status == 0, "\(io.text)")
        }
        // The second read waits for four tenths of a second.
        let slow = try ours.shell(
            "platter io -c 'read -q 0 1M' -c 'read 0 1M' --image-opts \(format),limits.bps-total=2M",
            linked: true)
        #expect(slow.status == 0 && !slow.output.contains("; 00.0"), "\(slow.text)")
    }
}
