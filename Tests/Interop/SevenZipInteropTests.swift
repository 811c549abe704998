import BlockTestSupport
import Testing

/// 7-Zip reads what we write. It wants every sector that an entry counts to be in the file.
@Suite(.enabled(if: Peer.isExpected)) struct SevenZipInteropTests {
    static let options = [
        "compat=1.1", "compat=0.10", "cluster_size=4k", "cluster_size=2M", "refcount_bits=1",
    ]

    @Test(.timeLimit(.minutes(2)), arguments: options, ["", "-c"])
    func readsQcow2(_ options: String, _ compressed: String) throws {
        let fixture = try CommandFixture()
        let outcome = try fixture.shell(
            """
            set -e
            mkdir d && seq 300000 > d/numbers
            truncate -s 20M src.raw
            mke2fs -q -t ext4 -d d src.raw
            platter convert \(compressed) -f raw -O qcow2 -o \(options) src.raw a.qcow2
            /usr/bin/qemu-img check -q a.qcow2
            7z e -tqcow -so a.qcow2 > z.raw
            cmp src.raw z.raw
            test $(($(stat -c %s a.qcow2) % 512)) = 0
            """, linked: true)
        #expect(outcome.status == 0, "\(outcome.text)")
    }
}
