import BlockTestSupport
import Foundation
import Testing

/// The filters copy-before-write and snapshot-access, and backups, judged by QEMU's tools.
@Suite struct SnapshotAccessInteropTests {
    private static let cbw =
        "driver=copy-before-write,file.driver=qcow2,file.file.driver=file,file.file.filename=a.qcow2,"
        + "target.driver=qcow2,target.file.driver=file,target.file.filename=b.qcow2"
    private static let access =
        "driver=snapshot-access,file.driver=copy-before-write,file.file.driver=qcow2,"
        + "file.file.file.driver=file,file.file.file.filename=a.qcow2,file.target.driver=qcow2,"
        + "file.target.file.driver=file,file.target.file.filename=b.qcow2"

    private func fixture() throws -> CommandFixture {
        let fixture = try CommandFixture()
        let made = try fixture.shell(
            """
            set -e; qemu-img create -q -f qcow2 a.qcow2 1M; qemu-img create -q -f qcow2 b.qcow2 1M
            qemu-io -f qcow2 -c 'write -q -P 1 0 128k' a.qcow2
            qemu-img bitmap --add a.qcow2 marks; qemu-io -f qcow2 -c 'write -q -P 1 0 1k' a.qcow2
            """)
        guard made.status == 0 else { throw Mismatch(made.text) }
        return fixture
    }

    static let lines = [
        "\(cbw) -c 'write -P 3 64k 4k' -c 'write -z 128k 64k' -c 'discard 0 64k' -c length -c map",
        "\(cbw),on-cbw-error=other -c length", "\(cbw),cbw-timeout=-1 -c length",
        "\(cbw),cbw-timeout=x -c length", "\(cbw),cbw-timeout=7,on-cbw-error=break-snapshot -c length",
        "\(cbw),bitmap.name=marks -c length", "\(cbw),bitmap.node=n,bitmap.name=marks -c length",
        "\(cbw),file.node-name=n,bitmap.node=n,bitmap.name=none -c length",
        "\(cbw),file.node-name=n,bitmap.node=n,bitmap.name=marks -c 'write -P 4 0 1k'"
            + " -c 'write -P 4 100k 1k'",
        "\(cbw) -r -c length",
        "\(access) -c length -c 'read -P 1 0 128k' -c 'write 0 4k' -c 'discard 0 64k' -c 'read 0 64k'"
            + " -c 'read -P 1 64k 64k' -c map",
    ]

    /// Both programs print the same, and leave the same disk and the same target behind. (A discard of what
    /// is not allocated leaves a mark in our qcow2, so the target's map is compared only without one.)
    @Test(.enabled(if: Peer.isExpected), arguments: lines)
    func bothDoTheSame(_ line: String) throws {
        var results: [[String]] = []
        for linked in [true, false] {
            let fixture = try fixture()
            let outcome = try fixture.shell("qemu-io --image-opts \(line)", linked: linked)
            let left = try fixture.shell(
                """
                for f in a b; do qemu-img check -q $f.qcow2
                qemu-img convert -O raw $f.qcow2 $f.raw; sha256sum $f.raw; done
                qemu-img map --output=json \(line.hasPrefix(Self.access) ? "a" : "b").qcow2
                """)
            results.append(
                [Self.withoutTimes(outcome.output), outcome.error, "\(outcome.status)", left.output])
        }
        #expect(results[0] == results[1])
    }

    private static func withoutTimes(_ text: String) -> String {
        text.split(separator: "\n").filter { !$0.contains(" ops; ") }.joined(separator: "\n")
    }
}
