import BlockTestSupport
import Foundation
import Testing

/// Encrypted qcow2 images, made and changed by QEMU's tools and Platter in turn.
@Suite(.serialized, .enabled(if: Peer.isExpected)) struct EncryptionInteropTests {
    static let kinds = [
        "encrypt.format=luks,encrypt.iter-time=10",
        "encrypt.format=luks,encrypt.iter-time=10,cluster_size=512",
        "encrypt.format=luks,encrypt.iter-time=10,cluster_size=2M",
        "encrypt.format=luks,encrypt.iter-time=10,compat=0.10",
        "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,"
            + "encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha1",
        "encrypt.format=luks,encrypt.iter-time=10,data_file=disk.data",
        "encrypt.format=aes", "encryption=on", "encrypt.format=aes,cluster_size=4k,compat=0.10",
        "encrypt.format=aes,data_file=disk.data",
    ]

    private func must(_ fixture: CommandFixture, _ script: String) throws {
        let outcome = try fixture.shell(
            """
            set -euo pipefail
            P=\(CommandFixture.platter.path)
            S="--object secret,id=s0,data=hunter2 --object secret,id=s1,data=other"
            O=driver=qcow2,file.filename=disk.qcow2,encrypt.key-secret=s0
            # QEMU 7.2 cannot tell the time that few iterations take on a loaded machine, and says so.
            patient() {
                for _ in $(seq 200); do
                    "$@" 2>log && return 0
                    grep -q "accurate CPU usage" log || break
                done
                cat log >&2
                return 1
            }
            agree() {
                qemu-img check -q $S --image-opts $O
                $P check -q $S --image-opts $O
                qemu-img compare -q $S --image-opts driver=raw,file.filename=want.raw $O
                $P compare -q $S --image-opts driver=raw,file.filename=want.raw $O
            }
            \(script)
            """)
        try #require(outcome.status == 0, "\(outcome.output) \(outcome.error)\nin \(script)")
    }

    /// Both write, grow the disk and go back to a snapshot.
    private static func use(_ options: String) -> String {
        let snapshots = """
            $P snapshot $S -c ours --image-opts $O
            qemu-img snapshot $S -c theirs --image-opts $O
            cp want.raw then.raw
            qemu-io $S --image-opts -c 'write -P 9 0 200k' $O > log
            $P snapshot $S -a theirs --image-opts $O
            cp then.raw want.raw
            agree
            $P convert $S --image-opts -l ours -O raw $O ours.raw
            cmp want.raw ours.raw
            qemu-img snapshot $S -d ours --image-opts $O
            $P snapshot $S -d theirs --image-opts $O
            agree
            """
        return """
            agree
            work() { qemu-io "$@" -c 'write -P 7 1k 70k' -c 'write -P 8 3M 1k' -c 'write -z 2M 300k' >log; }
            work $S --image-opts $O
            work -f raw want.raw
            agree
            head -c 300000 /dev/urandom > noise.raw
            truncate -s 4M noise.raw
            $P convert -n -S 0 $S -f raw --target-image-opts noise.raw $O
            cp noise.raw want.raw
            agree
            \(options.contains("data_file") ? "" : snapshots)
            $P resize -q $S --image-opts $O 5M
            truncate -s 5M want.raw
            agree
            """
    }

    @Test("what Platter makes", .timeLimit(.minutes(3)), arguments: kinds)
    func ours(options: String) throws {
        try must(
            try CommandFixture(),
            """
            head -c 700000 /bin/bash > want.raw
            truncate -s 4M want.raw
            $P convert $S -f raw -O qcow2 -o encrypt.key-secret=s0,\(options) want.raw disk.qcow2
            \(Self.use(options))
            """)
    }

    @Test("what qemu-img makes", .timeLimit(.minutes(3)), arguments: kinds)
    func theirs(options: String) throws {
        try must(
            try CommandFixture(),
            """
            head -c 700000 /bin/bash > want.raw
            truncate -s 4M want.raw
            options=encrypt.key-secret=s0,\(options)
            patient qemu-img convert $S -f raw -O qcow2 -o $options want.raw disk.qcow2
            for program in $P qemu-img; do
                $program info --output=json disk.qcow2 | python3 -c '
            import json, sys
            data = json.load(sys.stdin)["format-specific"]["data"]
            data["encrypt"].pop("detached-header", None)
            print(json.dumps(data))' > ${program##*/}.json
            done
            diff platter.json qemu-img.json
            \(Self.use(options))
            """)
    }

    @Test("chains with several secrets", .timeLimit(.minutes(3)))
    func chains() throws {
        try must(
            try CommandFixture(),
            """
            head -c 700000 /bin/bash > want.raw
            truncate -s 4M want.raw
            L=encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret
            $P convert $S -f raw -O qcow2 -o $L=s1 want.raw base.qcow2
            $P create -q $S -f qcow2 -b base.qcow2 -B qcow2 -o $L=s0 disk.qcow2
            O=$O,backing.encrypt.key-secret=s1
            agree
            ! $P compare -q $S --image-opts driver=raw,file.filename=want.raw ${O%s1}s0 2>log
            grep -q 'Invalid password' log
            qemu-io $S --image-opts -c 'write -P 7 1k 70k' $O > log
            qemu-io -f raw -c 'write -P 7 1k 70k' want.raw > log
            agree
            B=driver=qcow2,file.filename=base.qcow2,encrypt.key-secret=s1
            J='json:{"driver":"qcow2","file.filename":"base.qcow2","encrypt.key-secret":"s1"}'
            $P create -q $S -f qcow2 -b "$J" -B qcow2 over.qcow2
            $P compare $S -f qcow2 -F qcow2 over.qcow2 "$J"
            $P commit -q $S --image-opts $O
            $P compare -q $S --image-opts driver=raw,file.filename=want.raw $B
            """)
    }

    @Test("key slots that Platter changes", .timeLimit(.minutes(1)))
    func slots() throws {
        try must(
            try CommandFixture(),
            """
            truncate -s 4M want.raw
            L=encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret
            $P create -q $S -f qcow2 -o $L=s0 disk.qcow2 4M
            opens() { qemu-io $S --image-opts -c 'read 0 512' ${O%s0}$1 >log 2>&1; }
            N=encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10
            $P amend $S --image-opts -o $N,lazy_refcounts=on $O
            opens s0
            opens s1
            agree
            $P amend $S --image-opts -o encrypt.state=inactive,encrypt.old-secret=s0 ${O%s0}s1
            ! opens s0
            opens s1
            ! $P amend $S --image-opts -o encrypt.state=inactive,encrypt.keyslot=1 ${O%s0}s1 2>log
            grep -q 'only active keyslot 1' log
            opens s1
            """)
    }
}
