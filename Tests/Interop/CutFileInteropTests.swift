import BlockTestSupport
import Testing

/// Files of QEMU's that were cut: nothing that is lost becomes zeroes; and what QEMU leaves out still reads.
@Suite(.enabled(if: Peer.isExpected)) struct CutFileInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
    }

    static let formats = [
        "qcow2", "qcow2 preallocation=metadata", "qcow2 extended_l2=on", "qcow2 compression_type=zstd", "qed",
        "vdi", "vdi static=on", "vpc force_size=on", "vhdx block_size=1M", "parallels", "vmdk",
        "vmdk subformat=streamOptimized", "qcow",
    ]

    /// Cut anywhere, `convert` fails, and `check` counts it.
    @Test(.timeLimit(.minutes(2)), arguments: formats) func aCutFileFails(_ kind: String) throws {
        let words = kind.split(separator: " ").map(String.init)
        let options = words.count > 1 ? "-o \(words[1])" : ""
        try fixture.write("s.raw", Pattern.bytes(stamp: 4, at: 0, count: 4 << 20))
        try run(
            """
            /usr/bin/qemu-img convert -f raw -O \(words[0]) \(options) s.raw a.img
            platter convert -f \(words[0]) -O raw a.img o.raw && cmp -n 4194304 s.raw o.raw
            """)
        // QEMU ends streamOptimized files with space that holds nothing.
        let whole = kind.hasSuffix("streamOptimized") ? 8 : 16
        for part in [3, 7, 11, 15] {
            let outcome = try fixture.shell(
                """
                cp a.img b.img; truncate -s $(( $(stat -c %s a.img) * \(part) / 16 * \(whole) / 16 )) b.img
                platter convert -f \(words[0]) -O raw b.img o.raw
                """, linked: true)
            #expect(outcome.status == 1, "\(part)/16: \(outcome.text)")
        }
        let check = try fixture.shell("platter check -f \(words[0]) b.img", linked: true)
        #expect(check.status == 2, "\(check.text)")
    }

    /// A disk that does not end with a unit: QEMU, and we, write no more than the disk has of the last one.
    @Test(.timeLimit(.minutes(2)), arguments: formats) func aShortLastUnitIsLegal(_ kind: String) throws {
        let words = kind.split(separator: " ").map(String.init)
        let options = words.count > 1 ? "-o \(words[1])" : ""
        try fixture.write("s.raw", Pattern.bytes(stamp: 4, at: 0, count: 2 << 20 | 1536))
        for program in ["/usr/bin/qemu-img", "platter"] {
            try run(
                """
                rm -f a.img; \(program) convert -f raw -O \(words[0]) \(options) s.raw a.img
                platter convert -f \(words[0]) -O raw a.img o.raw && cmp -n 2098688 s.raw o.raw
                """)
        }
    }

    /// Metadata that was preallocated and never written, and clusters of which only a part was.
    @Test func whatQemuLeavesUnwrittenReadsAsZeroes() throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f raw zero.raw 8M
            for o in preallocation=metadata preallocation=falloc extended_l2=on,preallocation=metadata \
                cluster_size=2M,preallocation=metadata lazy_refcounts=on,preallocation=metadata; do
                /usr/bin/qemu-img create -q -f qcow2 -o $o a.qcow2 8M
                platter compare -q -f qcow2 -F raw a.qcow2 zero.raw
                platter io -f qcow2 -c 'write -P 0 1M 512' a.qcow2
                platter check -q a.qcow2
            done
            /usr/bin/qemu-img create -q -f qcow2 b.qcow2 8M
            /usr/bin/qemu-io -f qcow2 -c 'write -P 0 5M 512' b.qcow2
            truncate -s -32768 b.qcow2; /usr/bin/qemu-img check -q b.qcow2
            platter compare -q -f qcow2 -F raw b.qcow2 zero.raw
            platter io -f qcow2 -c 'write -P 0 1M 64k' b.qcow2
            platter check -q b.qcow2
            """)
    }
}
