import BlockTestSupport
import Testing

/// QED images made by one program and read by the other.
@Suite(.enabled(if: Peer.isExpected)) struct QedInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
    }

    // QEMU 7.2 does not open its own images with tables of one cluster.
    static let sizes = [
        "cluster_size=4096,table_size=2", "cluster_size=65536", "cluster_size=1M,table_size=16",
    ]
    private static let fill = """
        -c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M' \
        -c 'discard 7M 512k'
        """

    @Test(.timeLimit(.minutes(2)), arguments: sizes) func qemuWritesWeRead(_ sizes: String) throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f raw base.raw 8M
            qemu-io -f raw -c 'write -P 7 0 8M' base.raw
            /usr/bin/qemu-img create -q -f qed -o \(sizes) -b base.raw -F raw a.qed 10M
            qemu-io \(Self.fill) a.qed
            platter check a.qed
            /usr/bin/qemu-img convert a.qed q.raw
            platter convert a.qed p.raw
            cmp q.raw p.raw
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: sizes) func weWriteQemuReads(_ sizes: String) throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 10M
            qemu-io -f raw \(Self.fill) src.raw
            platter convert -O qed -o \(sizes) src.raw a.qed
            /usr/bin/qemu-img check a.qed
            /usr/bin/qemu-img compare src.raw a.qed
            platter create -q -f qed -o \(sizes) -b a.qed -F qed b.qed
            qemu-io -c 'write -P 8 1M 100k' b.qed
            platter resize b.qed 20M
            qemu-io -c 'write -P 9 15M 100k' b.qed
            /usr/bin/qemu-img check b.qed
            platter check b.qed
            /usr/bin/qemu-img convert b.qed want.raw
            platter rebase -b src.raw -B raw b.qed
            /usr/bin/qemu-img compare want.raw b.qed
            platter rebase -b a.qed -B qed b.qed
            platter commit -q b.qed
            /usr/bin/qemu-img check a.qed
            /usr/bin/qemu-img check b.qed
            /usr/bin/qemu-img compare want.raw a.qed
            /usr/bin/qemu-img compare want.raw b.qed
            """)
    }
}
