import BlockTestSupport
import Testing

/// Parallels images made by one program and read by the other.
@Suite(.enabled(if: Peer.isExpected)) struct ParallelsInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
    }

    static let sizes = ["cluster_size=1M", "cluster_size=64k", "cluster_size=32256", "cluster_size=4M"]
    private static let fill =
        "-c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M'"

    @Test(.timeLimit(.minutes(2)), arguments: sizes) func qemuWritesWeRead(_ sizes: String) throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f parallels -o \(sizes) a.hds 10M
            qemu-io \(Self.fill) a.hds
            /usr/bin/qemu-img convert a.hds q.raw
            platter convert a.hds p.raw
            cmp q.raw p.raw
            platter check a.hds > ours
            /usr/bin/qemu-img check a.hds > theirs
            diff ours theirs
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: sizes) func weWriteQemuReads(_ sizes: String) throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9999872
            /usr/bin/qemu-io -f raw \(Self.fill) src.raw
            platter convert -O parallels -o \(sizes) src.raw a.hds
            platter measure -O parallels -o \(sizes) a.hds | grep -q "required size: $(stat -c %s a.hds)$"
            platter check a.hds > ours
            /usr/bin/qemu-img check a.hds > theirs
            diff ours theirs
            /usr/bin/qemu-img compare src.raw a.hds
            platter resize a.hds 300M
            /usr/bin/qemu-img check a.hds
            /usr/bin/qemu-io -c 'write -P 9 299M 4k' a.hds
            platter io -c 'discard 5M 1M' -c 'write -P 8 100M 3000' a.hds
            truncate -s 300M src.raw
            /usr/bin/qemu-io -f raw -c 'write -P 9 299M 4k' -c 'write -P 8 100M 3000' src.raw
            fallocate -p -o 5M -l 1M src.raw
            platter io -c 'write -z 5M 1M' a.hds
            /usr/bin/qemu-img check a.hds
            /usr/bin/qemu-img compare src.raw a.hds
            platter compare src.raw a.hds
            platter resize --shrink a.hds 3M
            truncate -s 3M src.raw
            platter check a.hds
            /usr/bin/qemu-img check a.hds
            /usr/bin/qemu-img compare src.raw a.hds
            """)
    }

    @Test func theSameBytesAsQemusOfTheSameImage() throws {
        try run(
            """
            for size in 0 512 10M 12345344 3G; do
                /usr/bin/qemu-img create -q -f parallels q.hds $size
                platter create -q -f parallels p.hds $size
                # QEMU leaves the mark of its first use out.
                printf '\\0\\0\\0\\0' | dd of=p.hds bs=1 seek=44 conv=notrunc status=none
                cmp q.hds p.hds
            done
            """)
    }

    @Test func whatQemuFindsAndMends() throws {
        try run(
            """
            platter create -q -f parallels -o cluster_size=64k a.hds 10M
            platter io -c 'write -P 1 0 300k' a.hds
            printf 'Ynot' | dd of=a.hds bs=1 seek=44 conv=notrunc status=none
            truncate -s +128k a.hds
            platter check a.hds > ours && exit 1
            /usr/bin/qemu-img check a.hds > theirs && exit 1
            diff ours theirs
            platter info a.hds | grep -q 'cleanly shut down: no'
            cp a.hds b.hds
            platter check -r all a.hds > ours
            /usr/bin/qemu-img check -r all b.hds > theirs
            diff ours theirs
            /usr/bin/qemu-img check a.hds
            platter check b.hds
            """)
    }

    /// QEMU reads the bitmaps of images that it does not write to.
    @Test func qemuReadsOurBitmaps() throws {
        try run(
            """
            name=01234567-89ab-cdef-0123-456789abcdef
            for size in 64k 32256 1M; do
                rm -f *.hds *.sock *.ended
                platter create -q -f parallels -o cluster_size=$size a.hds 40M
                platter bitmap --add -g 512 a.hds $name
                platter io -c 'write 1M 2M' -c 'write 39M 512' -c 'write 100k 3000' a.hds
                platter info a.hds | grep -q "name: $name"
                platter convert --bitmaps -O qcow2 a.hds a.qcow2
                for image in a.hds a.qcow2; do
                    # With --fork it returns once the socket is there; its pipe ends with the server.
                    mkfifo $image.ended
                    qemu-nbd --fork -r -B $name -k "$PWD/$image.sock" $image >nbd.txt 2>&1 9>$image.ended &
                    exec 8<$image.ended
                    wait $!
                    node="driver=nbd,server.type=unix,server.path=$PWD/$image.sock"
                    /usr/bin/qemu-img map --output=json --image-opts \
                        "$node,x-dirty-bitmap=qemu:dirty-bitmap:$name" > $image.map
                    cat <&8
                done
                diff a.hds.map a.qcow2.map
                test $(wc -l < a.hds.map) -gt 3
            done
            """)
    }
}
