import BlockTestSupport
import Testing

/// VDI images made by one program and read by others.
@Suite(.enabled(if: Peer.isExpected)) struct VdiInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws -> String {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
        return outcome.output
    }

    private static let fill =
        "-c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M'"

    @Test(.timeLimit(.minutes(2)), arguments: ["off", "on"]) func qemuWritesWeRead(isStatic: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f vdi -o static=\(isStatic) a.vdi 10M
            qemu-io \(Self.fill) a.vdi
            /usr/bin/qemu-img convert a.vdi q.raw
            platter convert a.vdi p.raw
            cmp q.raw p.raw
            platter check a.vdi
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: ["off", "on"]) func weWriteOthersRead(isStatic: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9999872
            qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vdi -o static=\(isStatic) src.raw a.vdi
            /usr/bin/qemu-img check a.vdi
            /usr/bin/qemu-img compare src.raw a.vdi
            7z e -so a.vdi > z.raw
            truncate -s 9999872 z.raw
            cmp src.raw z.raw
            platter resize a.vdi 300M
            /usr/bin/qemu-img check a.vdi
            qemu-io -c 'write -P 9 299M 4k' a.vdi
            truncate -s 300M src.raw
            qemu-io -f raw -c 'write -P 9 299M 4k' src.raw
            /usr/bin/qemu-img compare src.raw a.vdi
            platter compare src.raw a.vdi
            platter resize --shrink a.vdi 3M
            truncate -s 3M src.raw
            /usr/bin/qemu-img check a.vdi
            /usr/bin/qemu-img compare src.raw a.vdi
            """)
    }

    @Test func theSameImageTwice() throws {
        _ = try run(
            """
            export SOURCE_DATE_EPOCH=1700000000
            mkdir one two
            for d in one two; do platter create -q -f vdi $d/a.vdi 5M; done
            cmp one/a.vdi two/a.vdi
            unset SOURCE_DATE_EPOCH
            platter create -q -f vdi two/a.vdi 5M
            ! cmp -s one/a.vdi two/a.vdi
            """)
    }
}
