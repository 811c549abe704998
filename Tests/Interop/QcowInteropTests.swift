import BlockTestSupport
import Testing

/// Images of qcow version 1 made by one program and read by others.
@Suite(.enabled(if: Peer.isExpected)) struct QcowInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws {
        let outcome = try fixture.shell(
            """
            set -euo pipefail
            S="--object secret,id=s0,data=hunter2"
            O=driver=qcow,file.filename=a.qcow,encrypt.key-secret=s0
            W=driver=raw,file.filename=want.raw
            \(script)
            """, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
    }

    private static let fill = """
        -c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M' \
        -c 'write -P 5 9999k 1k'
        """
    private static let words = "seq 200000"

    @Test(.timeLimit(.minutes(2))) func qemuWritesWeRead() throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f qcow a.qcow 10M
            qemu-io \(Self.fill) a.qcow >log
            platter info a.qcow | grep '^file format: qcow$'
            platter info a.qcow | grep '^cluster_size: 4096$'
            platter check a.qcow | grep 'No errors'
            /usr/bin/qemu-img convert a.qcow q.raw
            platter convert a.qcow p.raw
            cmp q.raw p.raw
            /usr/bin/qemu-img create -q -f qcow -b a.qcow -F qcow b.qcow 10M
            qemu-io \(Self.fill) -c 'write -P 8 9M 700' b.qcow >log
            platter info b.qcow | grep '^cluster_size: 512$'
            platter info b.qcow | grep '^backing file: a.qcow$'
            platter check b.qcow | grep 'No errors'
            /usr/bin/qemu-img convert b.qcow q.raw
            platter convert b.qcow p.raw
            cmp q.raw p.raw
            qemu-io -c 'write -P 9 1M 5000' b.qcow >log
            /usr/bin/qemu-img commit -q b.qcow
            platter compare a.qcow b.qcow
            platter check b.qcow | grep 'No errors'
            """)
    }

    @Test(.timeLimit(.minutes(2))) func compressedByQemu() throws {
        try run(
            """
            \(Self.words) > want.raw
            truncate -s 3M want.raw
            # QEMU 7.2 ends with status 1 and no message; what it made is whole.
            /usr/bin/qemu-img convert -c -f raw -O qcow want.raw a.qcow || true
            /usr/bin/qemu-img compare want.raw a.qcow
            platter check a.qcow | grep '100.00% compressed'
            platter check a.qcow | grep 'No errors'
            platter compare want.raw a.qcow
            # Over compressed clusters: whole, in part, compressed again.
            platter io -c 'write -P 7 8k 4k' -c 'write -P 8 20k 512' -c 'write -c -P 9 32k 4k' a.qcow >log
            qemu-io -f raw -c 'write -P 7 8k 4k' -c 'write -P 8 20k 512' -c 'write -P 9 32k 4k' want.raw >log
            /usr/bin/qemu-img compare want.raw a.qcow
            platter compare want.raw a.qcow
            """)
    }

    @Test(.timeLimit(.minutes(2))) func weWriteOthersRead() throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f raw want.raw 10M
            qemu-io -f raw \(Self.fill) want.raw >log
            platter convert -O qcow want.raw a.qcow
            /usr/bin/qemu-img compare want.raw a.qcow
            7z e -so a.qcow > z.raw
            cmp want.raw z.raw
            \(Self.words) | dd of=want.raw conv=notrunc status=none
            platter convert -c -O qcow want.raw c.qcow
            test $(stat -c %s c.qcow) -lt 1000000
            /usr/bin/qemu-img compare want.raw c.qcow
            qemu-io -c 'write -P 6 10k 9k' -c 'write -P 6 4M 1M' c.qcow >log
            qemu-io -f raw -c 'write -P 6 10k 9k' -c 'write -P 6 4M 1M' want.raw >log
            /usr/bin/qemu-img compare want.raw c.qcow
            platter compare want.raw c.qcow
            """)
    }

    @Test(.timeLimit(.minutes(2))) func overlays() throws {
        try run(
            """
            head -c 3M /dev/urandom > base.raw
            # A qcow image cannot say that its backing file is raw: programs look for themselves.
            platter create -q -f qcow -b base.raw -B raw a.qcow 5M
            cp base.raw want.raw
            truncate -s 5M want.raw
            for i in 1 2; do
                qemu-io -c "write -P $i ${i}M 3k" -c "write -P $i 4M 9k" a.qcow >log
                qemu-io -f raw -c "write -P $i ${i}M 3k" -c "write -P $i 4M 9k" want.raw >log
                platter io -c 'write -P 7 100k 700' -c 'write -z 1M 100k' a.qcow >log
                qemu-io -f raw -c 'write -P 7 100k 700' -c 'write -z 1M 100k' want.raw >log
            done
            platter compare want.raw a.qcow
            /usr/bin/qemu-img compare want.raw a.qcow
            platter check a.qcow | grep 'No errors'
            platter create -q -f qcow2 other.qcow2 3M
            platter rebase -b other.qcow2 -B qcow2 a.qcow
            /usr/bin/qemu-img compare want.raw a.qcow
            platter rebase -b "" a.qcow
            /usr/bin/qemu-img compare want.raw a.qcow
            platter rebase -b base.raw -B raw a.qcow
            /usr/bin/qemu-img compare want.raw a.qcow
            """)
    }

    @Test(.timeLimit(.minutes(2))) func sizes() throws {
        try run(
            """
            /usr/bin/qemu-img create -q -f qcow a.qcow 10M
            qemu-io \(Self.fill) a.qcow >log
            /usr/bin/qemu-img convert a.qcow want.raw
            for size in 11M 3G 20G 6M 700M; do
                platter resize -q --shrink a.qcow $size
                truncate -s $size want.raw
                /usr/bin/qemu-img compare want.raw a.qcow
                platter check a.qcow | grep 'No errors'
                qemu-io -c 'write -P 9 1M 5000' -c 'write -P 3 5M 1M' a.qcow >log
                qemu-io -f raw -c 'write -P 9 1M 5000' -c 'write -P 3 5M 1M' want.raw >log
                /usr/bin/qemu-img compare want.raw a.qcow
            done
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: ["encrypt.format=aes", "encryption=on"])
    func encryption(_ option: String) throws {
        try run(
            """
            \(Self.words) > want.raw
            truncate -s 3M want.raw
            work() { "$@" -c 'write -P 7 1k 70k' -c 'write -P 8 2M 1k' -c 'write -z 2500k 300k' >log; }
            agree() {
                platter compare -q $S --image-opts $W $O
                /usr/bin/qemu-img compare -q $S --image-opts $W $O
                platter check $S --image-opts $O | grep 'No errors'
            }
            for maker in /usr/bin/qemu-img platter; do
                \(Self.words) > want.raw
                truncate -s 3M want.raw
                $maker convert $S -f raw -O qcow -o encrypt.key-secret=s0,\(option) want.raw a.qcow
                platter info a.qcow | grep '^encrypted: yes$'
                agree
                work qemu-io $S --image-opts $O
                work qemu-io -f raw want.raw
                agree
                work platter io $S --image-opts $O
                agree
                platter resize -q $S --image-opts $O 5M
                truncate -s 5M want.raw
                agree
            done
            # A backing file of its own, with the key of the overlay.
            platter create -q $S -f qcow -o encrypt.key-secret=s0,\(option) -b a.qcow -B qcow b.qcow
            B=driver=qcow,file.filename=b.qcow,encrypt.key-secret=s0,backing.encrypt.key-secret=s0
            qemu-io $S --image-opts -c 'write -P 3 1000 600' $B >log
            qemu-io -f raw -c 'write -P 3 1000 600' want.raw >log
            platter compare -q $S --image-opts $W $B
            ! platter convert -c $S -O qcow -o encrypt.key-secret=s0,\(option) want.raw c.qcow 2>log
            grep -q 'ncryption' log
            """)
    }
}
