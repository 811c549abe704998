import BlockTestSupport
import Foundation
import Testing

/// LUKS volumes made by one program and judged by the others: QEMU's tools and cryptsetup.
@Suite(.serialized, .enabled(if: Peer.isExpected)) struct LuksInteropTests {
    static let suites: [String] = [
        "aes-256 xts plain64", "aes-128 xts plain", "aes-192 xts plain64", "aes-256 xts essiv",
        "aes-256 cbc essiv", "aes-128 cbc essiv", "aes-128 cbc plain64", "aes-192 cbc plain64",
        "aes-256 cbc plain",
    ]
    static let hashes = ["sha1", "sha256", "sha512", "sha224", "sha384"]
    static let size = 1 << 20

    private func must(_ fixture: CommandFixture, _ script: String) throws {
        // QEMU 7.2 cannot tell the time that few iterations take on a loaded machine, and says so.
        let outcome = try fixture.shell(
            """
            set -euo pipefail
            P=\(CommandFixture.platter.path) PATH=$PATH:/usr/sbin:/sbin
            S="--object secret,id=s0,data=hunter2"
            O=driver=luks,file.filename=disk.luks,key-secret=s0
            patient() {
                for _ in $(seq 200); do
                    "$@" 2>log && return 0
                    grep -q "accurate CPU usage" log || break
                done
                cat log >&2
                return 1
            }
            \(script)
            """)
        try #require(outcome.status == 0, "\(outcome.output) \(outcome.error)\nin \(script)")
    }

    private static let agree = """
        $P convert $S --image-opts $O -O raw ours.raw
        cmp want.raw ours.raw
        qemu-img convert $S --image-opts $O -O raw theirs.raw
        cmp want.raw theirs.raw
        """

    /// The same bytes through each of them, changed by both.
    private static let use = """
        head -c 700000 /bin/bash > want.raw
        truncate -s \(size) want.raw
        $P convert -n $S -f raw --target-image-opts want.raw $O
        \(agree)
        qemu-io $S --image-opts -c 'write -P 7 1k 70k' $O > log
        qemu-io -f raw -c 'write -P 7 1k 70k' want.raw > log
        \(agree)
        """

    private static func options(_ suite: String) -> String {
        let words = suite.split(separator: " ")
        let hash = hashes[(suites.firstIndex(of: suite) ?? 0) % hashes.count]
        return "key-secret=s0,iter-time=10,cipher-alg=\(words[0]),cipher-mode=\(words[1]),"
            + "ivgen-alg=\(words[2]),hash-alg=\(hash)"
    }

    @Test("what Platter makes", .timeLimit(.minutes(2)), arguments: suites)
    func ours(suite: String) throws {
        let fixture = try CommandFixture()
        try must(
            fixture,
            """
            $P create -q -f luks $S -o \(Self.options(suite)) disk.luks \(Self.size)
            cryptsetup isLuks disk.luks
            cryptsetup luksDump disk.luks | grep -q 'Key Slot 0: ENABLED'
            """)
        // QEMU 7.2 stops with a failed assertion at key material that is no whole number of sectors.
        if suite.hasPrefix("aes-192 cbc") {
            return try must(
                fixture,
                """
                head -c \(Self.size) /bin/bash > want.raw
                $P convert -n $S -f raw --target-image-opts want.raw $O
                $P compare $S --image-opts driver=raw,file.filename=want.raw $O
                """)
        }
        try must(fixture, Self.use)
    }

    @Test("what qemu-img makes", .timeLimit(.minutes(2)), arguments: suites)
    func theirs(suite: String) throws {
        if suite.hasPrefix("aes-192 cbc") { return }
        try must(
            try CommandFixture(),
            """
            patient qemu-img create -q -f luks $S -o \(Self.options(suite)) disk.luks \(Self.size)
            \(Self.use)
            $P info --output=json disk.luks | python3 -c '
            import json, sys
            mine = json.load(sys.stdin)["format-specific"]["data"]
            mine.pop("detached-header")
            print(json.dumps(mine))' > ours.json
            qemu-img info --output=json disk.luks | python3 -c '
            import json, sys
            print(json.dumps(json.load(sys.stdin)["format-specific"]["data"]))' > theirs.json
            diff ours.json theirs.json
            """)
    }

    @Test(
        "what cryptsetup makes", .timeLimit(.minutes(2)),
        arguments: [
            "--cipher aes-xts-plain64 --key-size 512 --hash sha256",
            "--cipher aes-xts-plain64 --key-size 256 --hash sha512",
            "--cipher aes-cbc-essiv:sha256 --key-size 256 --hash sha1",
            "--cipher aes-cbc-plain --key-size 128 --hash sha256",
        ])
    func cryptsetups(options: String) throws {
        try must(
            try CommandFixture(),
            """
            truncate -s \(Self.size + (2 << 20)) disk.luks
            printf hunter2 > pass
            printf second > pass2
            cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 \(options) disk.luks pass
            payload=$(cryptsetup luksDump disk.luks | awk '/Payload/ { print $3 }')
            truncate -s $((payload * 512 + \(Self.size))) disk.luks
            cryptsetup luksAddKey --pbkdf-force-iterations 1000 --key-slot 7 -d pass disk.luks pass2
            \(Self.use)
            $P convert --object secret,id=s0,data=second --image-opts $O -O raw ours.raw
            cmp want.raw ours.raw
            """)
    }

    @Test("cryptsetup opens ours by its passphrase and no other", .timeLimit(.minutes(1)))
    func passphrases() throws {
        try must(
            try CommandFixture(),
            """
            $P create -q -f luks $S -o key-secret=s0,iter-time=10 disk.luks 1M
            printf hunter2 | cryptsetup luksOpen --test-passphrase --key-file=- disk.luks
            ! printf hunter3 | cryptsetup luksOpen --test-passphrase --key-file=- disk.luks 2>log
            """)
    }

    @Test("key slots that Platter changes", .timeLimit(.minutes(1)))
    func slots() throws {
        try must(
            try CommandFixture(),
            """
            printf hunter2 > one
            printf second > two
            T="$S --object secret,id=s1,file=two"
            opens() { cryptsetup luksOpen --test-passphrase --key-file=$1 disk.luks 2>log; }
            $P create -q -f luks $S -o key-secret=s0,iter-time=10 disk.luks 1M
            $P amend -q $T --image-opts -o state=active,new-secret=s1,iter-time=10,keyslot=6 $O
            opens one
            opens two
            cryptsetup luksDump disk.luks | grep -q 'Key Slot 6: ENABLED'
            $P amend $T --image-opts -o state=inactive,old-secret=s0 $O
            ! opens one
            opens two
            patient qemu-img amend $T --image-opts -o state=active,new-secret=s0,iter-time=10 ${O%s0}s1
            $P amend $T --image-opts -o state=inactive,keyslot=6 $O
            opens one
            ! $P amend $T --image-opts -o state=inactive,keyslot=0 $O 2>log
            grep -q 'only active keyslot 0' log
            opens one
            """)
    }

    @Test("a detached header", .timeLimit(.minutes(1)))
    func detached() throws {
        try must(
            try CommandFixture(),
            """
            head -c \(Self.size) /bin/bash > want.raw
            truncate -s \(Self.size) disk.img
            $P create -q -f luks $S -o key-secret=s0,iter-time=10,detached-header=on head.luks
            O=driver=luks,file.filename=disk.img,header.filename=head.luks,key-secret=s0
            $P convert -n $S -f raw --target-image-opts want.raw $O
            test "$(stat -c %s disk.img)" = \(Self.size)
            $P convert $S --image-opts $O -O raw ours.raw
            cmp want.raw ours.raw
            $P info --image-opts $O | grep -q 'detached header: true'
            # The same as one file, which the others know.
            truncate -s 2068480 head.luks
            cat head.luks disk.img > disk.luks
            printf '\\x00\\x00\\x0f\\xc8' | dd of=disk.luks bs=1 seek=104 conv=notrunc status=none
            O=driver=luks,file.filename=disk.luks,key-secret=s0
            qemu-img convert $S --image-opts $O -O raw theirs.raw
            cmp want.raw theirs.raw
            """)
    }

    @Test("neither passphrase nor key appears in any output", .timeLimit(.minutes(1)))
    func secrecy() throws {
        try must(
            try CommandFixture(),
            """
            T="--object secret,id=s0,data=UnlikelyPassphrase"
            {
                $P create -f luks $T -o key-secret=s0,iter-time=10 disk.luks 1M
                $P info $T disk.luks
                $P info $T --output=json disk.luks
                $P map $T --output=json --image-opts $O
                ! $P map $T disk.luks
                ! $P convert $T -O nosuch disk.luks x
                ! $P info $T --object secret,id=s0,data=UnlikelyPassphrase disk.luks
                ! $P info --object secret,id=x,format=UnlikelyFormat,data=UnlikelyPassphrase disk.luks
            } > all 2>&1
            ! grep -q UnlikelyPassphrase all
            """)
    }
}
