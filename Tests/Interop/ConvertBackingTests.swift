import BlockTestSupport
import Testing

/// `convert -B`: the target is the same disk as the source, whatever that has below it. qemu-img judges.
@Suite(.enabled(if: Peer.isExpected)) struct ConvertBackingTests {
    let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try must(
            """
            qemu-img create -q -f qcow2 base.qcow2 4M; qemu-io -c "write -q -P 9 0 4M" base.qcow2
            qemu-img create -q -f qcow2 short.qcow2 1M; qemu-io -c "write -q -P 8 0 1M" short.qcow2
            cp base.qcow2 copy.qcow2
            """)
    }

    private func must(_ lines: String) throws {
        let outcome = try fixture.shell("set -e\n" + lines, linked: false)
        try #require(outcome.status == 0, "\(lines): \(outcome.text)")
    }

    /// Converts `source` to the new `target` over `base` and has qemu-img compare the two.
    private func expectSame(
        _ source: String, _ format: String, over base: String, as target: String = "qcow2",
        options: [String] = [], judgedAs judged: String? = nil
    ) throws {
        let arguments =
            ["convert", "-f", format, "-O", target, "-B", base, "-F", "qcow2"] + options + [source, "new"]
        let outcome = try fixture.run(CommandFixture.platter, arguments)
        try #require(outcome.status == 0, "\(arguments): \(outcome.text)")
        let same = try fixture.tool(
            "qemu-img", "compare", "-f", judged == nil ? format : "raw", "-F", target, judged ?? source,
            "new")
        #expect(same.status == 0, "\(arguments): \(same.text)")
    }

    @Test(
        "a source without a backing file hides the base with zeroes",
        arguments: ["raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels"],
        ["base.qcow2", "short.qcow2"])
    func flatSource(format: String, base: String) throws {
        let options = format == "vpc" ? "-o force_size=on" : ""
        try must(
            """
            qemu-img create -q -f \(format) \(options) mid 4M
            qemu-io -f \(format) -c "write -q -P 1 128k 64k" -c "write -q -P 2 2M 4k" mid
            """)
        for target in ["qcow2", "qed"] {
            try expectSame("mid", format, over: base, as: target)
            try must("rm new")
        }
        try expectSame("mid", format, over: base, options: ["-S", "0"])
        try must(
            """
            rm new; qemu-img create -q -f qcow2 -b \(base) -F qcow2 new 4M
            qemu-io -c 'write -q -P 3 1M 2M' new
            """)
        try expectSame("mid", format, over: base, options: ["-n"])
    }

    @Test(
        "a source over another chain: copies of the base, lower layers, shorter ones",
        arguments: ["base.qcow2", "copy.qcow2", "short.qcow2"])
    func chains(below: String) throws {
        try must(
            """
            qemu-img create -q -f qcow2 -b \(below) -F qcow2 middle.qcow2 3M
            qemu-io -c "write -q -P 1 64k 64k" -c "write -z 256k 64k" middle.qcow2 > /dev/null
            qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 4M
            qemu-io -c "write -q -P 2 128k 64k" -c "write -z 512k 64k" top.qcow2 > /dev/null
            """)
        for source in ["middle.qcow2", "top.qcow2"] {
            // Of a chain that does not hold the named file the whole backing chain is stated to be the same.
            let bases = source == "top.qcow2" ? [below, "middle.qcow2"] : [below]
            for base in bases {
                try expectSame(source, "qcow2", over: base)
                try must("rm new")
            }
        }
    }

    @Test("what the layers above a lower base do not have is not copied")
    func lowerBase() throws {
        try must(
            """
            qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2
            qemu-io -c "write -q -P 1 64k 64k" middle.qcow2
            qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2
            qemu-io -c "write -q -P 2 128k 64k" top.qcow2
            """)
        try expectSame("top.qcow2", "qcow2", over: "base.qcow2")
        let map = try fixture.tool("qemu-img", "map", "--output=json", "new").output
        let own = map.split(separator: "\n").filter { $0.contains("\"depth\": 0") }
        #expect(own.count == 1 && own[0].contains("\"start\": 65536, \"length\": 131072"), "\(map)")
    }

    @Test("a target that is there: what it holds itself gives way, and another base is no promise")
    func existingTarget() throws {
        try must(
            """
            qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
            qemu-io -c "write -q -P 2 128k 64k" top.qcow2
            qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 new; qemu-io -c "write -q -P 3 1M 1M" new
            """)
        try expectSame("top.qcow2", "qcow2", over: "base.qcow2", options: ["-n"])
        try must("rm new; qemu-img create -q -f qcow2 -b short.qcow2 -F qcow2 new 4M")
        try expectSame("top.qcow2", "qcow2", over: "base.qcow2", options: ["-n"])
        try must("rm new; qemu-img create -q -f qcow2 new 4M")
        try expectSame("top.qcow2", "qcow2", over: "base.qcow2", options: ["-n"])
    }

    @Test("a snapshot in a flat image and in an overlay", arguments: [false, true])
    func snapshots(isOverlay: Bool) throws {
        let below = isOverlay ? "-b base.qcow2 -F qcow2" : ""
        try must(
            """
            qemu-img create -q -f qcow2 \(below) top.qcow2 4M
            qemu-io -c "write -q -P 2 128k 64k" top.qcow2; qemu-img snapshot -c s top.qcow2
            qemu-io -c "write -q -P 3 0 1M" top.qcow2; qemu-img convert -l s top.qcow2 want.raw
            """)
        try expectSame("top.qcow2", "qcow2", over: "base.qcow2", options: ["-l", "s"], judgedAs: "want.raw")
        guard !isOverlay else { return }
        try must("rm new")
        try expectSame("top.qcow2", "qcow2", over: "short.qcow2", options: ["-l", "s"], judgedAs: "want.raw")
    }
}
