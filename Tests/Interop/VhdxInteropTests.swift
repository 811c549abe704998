import BlockTestSupport
import Foundation
import Testing

/// VHDX images made by one program and read by others.
@Suite(.enabled(if: Peer.isExpected)) struct VhdxInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws -> String {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
        return outcome.output
    }

    private static let fill =
        "-c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M'"

    static let options = [
        "subformat=dynamic", "subformat=fixed", "block_size=1M", "block_state_zero=off,log_size=3M",
    ]

    @Test(.timeLimit(.minutes(2)), arguments: options) func qemuWritesWeRead(_ options: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f vhdx -o \(options) a.vhdx 10M
            /usr/bin/qemu-io \(Self.fill) a.vhdx
            /usr/bin/qemu-img convert a.vhdx q.raw
            platter convert a.vhdx p.raw
            cmp q.raw p.raw
            platter check a.vhdx
            platter io -c 'write -P 4 3M 2M' -c 'write -z 0 1M' a.vhdx
            /usr/bin/qemu-img check a.vhdx
            /usr/bin/qemu-io -c 'read -P 4 3M 2M' -c 'read -P 0 0 1M' -c 'write -P 5 9M 64k' a.vhdx
            platter io -c 'read -P 5 9M 64k' a.vhdx
            platter check a.vhdx
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: options) func weWriteOthersRead(_ options: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9998336
            /usr/bin/qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vhdx -o \(options) src.raw a.vhdx
            /usr/bin/qemu-img check a.vhdx
            /usr/bin/qemu-img compare src.raw a.vhdx
            7z e -so a.vhdx > z.raw
            cmp src.raw z.raw
            platter resize a.vhdx 300M
            /usr/bin/qemu-img check a.vhdx
            /usr/bin/qemu-io -c 'write -P 9 299M 4k' a.vhdx
            truncate -s 300M src.raw
            /usr/bin/qemu-io -f raw -c 'write -P 9 299M 4k' src.raw
            /usr/bin/qemu-img compare src.raw a.vhdx
            platter compare src.raw a.vhdx
            platter resize --shrink a.vhdx 3M
            truncate -s 3M src.raw
            /usr/bin/qemu-img check a.vhdx
            /usr/bin/qemu-img compare src.raw a.vhdx
            platter check a.vhdx
            """)
    }

    /// What a killed Platter leaves, QEMU mends, and the other way round.
    @Test(.timeLimit(.minutes(2))) func qemuReplaysOurLog() throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 10M
            /usr/bin/qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vhdx -o block_size=1M src.raw a.vhdx
            coproc io { platter io a.vhdx; }
            printf '%s\\n' 'write -P 7 1M 1M' flush length >&${io[1]}
            # The length is printed once the flush is done.
            until [[ $line = *10\\ MiB* ]]; do read -r line; done <&${io[0]}
            cp a.vhdx dirty.vhdx
            echo quit >&${io[1]}; wait
            # The change of the BAT is taken back: only the log has it now.
            printf '\\2\\0\\0\\0\\0\\0\\0\\0' |
                dd of=dirty.vhdx bs=1 seek=2097160 conv=notrunc status=none
            cp dirty.vhdx again.vhdx
            platter io -r -c 'read -P 7 1M 1M' dirty.vhdx
            cmp dirty.vhdx again.vhdx
            ! /usr/bin/qemu-img info dirty.vhdx 2> told
            grep 'contains a log that needs to be replayed' told
            /usr/bin/qemu-img check -r all dirty.vhdx
            /usr/bin/qemu-io -r -c 'read -P 7 1M 1M' dirty.vhdx
            platter check again.vhdx
            platter check -r all again.vhdx
            /usr/bin/qemu-img check again.vhdx
            /usr/bin/qemu-img compare dirty.vhdx again.vhdx
            """)
    }

    @Test(.timeLimit(.minutes(2))) func chainsAreRebasedAndCommitted() throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 10M
            /usr/bin/qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vhdx -o block_size=1M src.raw base.vhdx
            platter create -q -f vhdx -o block_size=2M -b base.vhdx -F vhdx mid.avhdx
            platter create -q -f vhdx -b mid.avhdx -F vhdx top.avhdx
            platter compare src.raw top.avhdx
            platter io -c 'write -P 8 4M 100k' mid.avhdx
            ! platter io -r -c 'read 0 1' top.avhdx
            platter rebase -u -b mid.avhdx -F vhdx top.avhdx
            /usr/bin/qemu-io -f raw -c 'write -P 8 4M 100k' src.raw
            platter compare src.raw top.avhdx
            platter io -c 'write -P 9 9M 1000' top.avhdx
            /usr/bin/qemu-io -f raw -c 'write -P 9 9M 1000' src.raw
            platter rebase -b base.vhdx -F vhdx top.avhdx
            platter compare src.raw top.avhdx
            platter commit top.avhdx
            /usr/bin/qemu-img check base.vhdx
            /usr/bin/qemu-img compare src.raw base.vhdx
            platter compare src.raw top.avhdx
            platter rebase -b '' top.avhdx
            /usr/bin/qemu-img check top.avhdx
            /usr/bin/qemu-img compare src.raw top.avhdx
            platter info top.avhdx > told
            ! grep backing told
            """)
    }

    @Test(.timeLimit(.minutes(2))) func theSameImageTwice() throws {
        _ = try run(
            """
            export SOURCE_DATE_EPOCH=1700000000
            /usr/bin/qemu-img create -q -f raw src.raw 40M
            /usr/bin/qemu-io -f raw -c 'write -P 2 1M 30M' -c 'write -P 3 35M 1M' src.raw
            mkdir one two
            for d in one two; do
                platter create -q -f vhdx $d/a.vhdx 5M
                platter convert -O vhdx -o block_size=1M src.raw $d/b.vhdx
            done
            cmp one/a.vhdx two/a.vhdx
            cmp one/b.vhdx two/b.vhdx
            unset SOURCE_DATE_EPOCH
            platter create -q -f vhdx two/a.vhdx 5M
            ! cmp -s one/a.vhdx two/a.vhdx
            """)
    }
}
