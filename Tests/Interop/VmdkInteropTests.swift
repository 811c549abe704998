import BlockTestSupport
import Testing

/// VMDK images made by one program and read by others.
@Suite(.enabled(if: Peer.isExpected)) struct VmdkInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    static let subformats = [
        "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized",
    ]

    private func run(_ script: String) throws -> String {
        // What is read with a pattern says so where it has another, and still ends well.
        let head = "set -e -o pipefail\ndiffless() { ! grep 'verification failed'; }\n"
        let outcome = try fixture.shell(head + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
        return outcome.output
    }

    private static let fill =
        "-c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M'"

    @Test(.timeLimit(.minutes(2)), arguments: subformats) func qemuWritesWeRead(_ subformat: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9999872
            qemu-io -f raw \(Self.fill) src.raw
            /usr/bin/qemu-img convert -O vmdk -o subformat=\(subformat) src.raw a.vmdk
            platter compare src.raw a.vmdk
            platter convert a.vmdk p.raw
            cmp src.raw p.raw
            platter check a.vmdk
            [ \(subformat) = streamOptimized ] || platter io -c 'write -P 7 3M 128k' a.vmdk
            [ \(subformat) = streamOptimized ] || qemu-io -f raw -c 'write -P 7 3M 128k' src.raw
            /usr/bin/qemu-img compare src.raw a.vmdk
            /usr/bin/qemu-img check a.vmdk
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: subformats) func weWriteOthersRead(_ subformat: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9999872
            qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vmdk -o subformat=\(subformat) src.raw a.vmdk
            /usr/bin/qemu-img check a.vmdk
            /usr/bin/qemu-img compare src.raw a.vmdk
            platter compare src.raw a.vmdk
            platter check a.vmdk
            7z e -so a.vmdk > z.raw
            cmp src.raw z.raw
            vmdkinfo a.vmdk
            """)
    }

    /// QEMU 7.2 takes no compressed image to write to, so that reading is all there is to compare.
    @Test(.timeLimit(.minutes(2))) func compressedImagesAreChangedInPlace() throws {
        _ = try run(
            """
            platter create -q -f vmdk -o subformat=streamOptimized a.vmdk 9999872
            platter create -q -f raw src.raw 9999872
            for f in vmdk:a.vmdk raw:src.raw; do
              platter io -f ${f%:*} \(Self.fill) -c 'write -P 9 5100k 70k' -c 'write -z 7M 64k' ${f#*:}
            done
            /usr/bin/qemu-img compare src.raw a.vmdk
            platter compare src.raw a.vmdk
            /usr/bin/qemu-img check a.vmdk
            """)
    }

    @Test(.timeLimit(.minutes(2))) func aStreamGoesToAPipe() throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 70M
            qemu-io -f raw \(Self.fill) -c 'write -P 4 69M 1M' src.raw
            platter convert -O vmdk -o subformat=streamOptimized src.raw - | cat > a.vmdk
            platter convert -c -O vmdk -o subformat=streamOptimized src.raw - | cat > b.vmdk
            for f in a.vmdk b.vmdk; do
              /usr/bin/qemu-img compare src.raw $f
              platter compare src.raw $f
              platter check $f
              7z e -so $f > z.raw
              cmp src.raw z.raw
              vmdkinfo $f
            done
            ! platter convert -O vmdk src.raw - > c.vmdk
            test ! -s c.vmdk
            ! platter io -c 'write 0 512' a.vmdk
            """)
    }

    /// Each program's overlay over the other's image, committed and rebased.
    @Test(.timeLimit(.minutes(2))) func chainsOfBothPrograms() throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f vmdk base.vmdk 10M
            qemu-io -c 'write -P 1 0 4M' base.vmdk
            platter create -q -f vmdk -b base.vmdk -F vmdk over.vmdk
            platter io -c 'write -P 2 1M 100k' over.vmdk
            qemu-io -c 'read -P 2 1M 100k' -c 'read -P 1 0 1M' -c 'read -P 1 1200k 1M' over.vmdk | diffless
            /usr/bin/qemu-img create -q -f vmdk -b over.vmdk -F vmdk top.vmdk
            qemu-io -c 'write -P 3 2M 100k' top.vmdk
            platter convert -O raw top.vmdk top.raw
            platter commit top.vmdk
            for f in over top; do
              platter check $f.vmdk
              platter compare -f raw -F vmdk top.raw $f.vmdk
              /usr/bin/qemu-img compare -f raw -F vmdk top.raw $f.vmdk
            done
            platter io -c 'write -P 9 3M 64k' top.vmdk
            platter convert -O raw top.vmdk top.raw
            platter commit -b base.vmdk top.vmdk
            for f in base top; do platter compare -f raw -F vmdk top.raw $f.vmdk; done
            platter create -q -f vmdk -o subformat=twoGbMaxExtentSparse other.vmdk 10M
            platter io -c 'write -P 7 5M 1M' other.vmdk
            platter rebase -b other.vmdk -F vmdk top.vmdk
            /usr/bin/qemu-img compare -f raw -F vmdk top.raw top.vmdk
            platter rebase -b '' top.vmdk
            /usr/bin/qemu-img compare -f raw -F vmdk top.raw top.vmdk
            platter create -q -f vmdk -o zeroed_grain=on -b other.vmdk -F vmdk z.vmdk
            platter io -c 'write -z 5M 512k' z.vmdk
            qemu-io -c 'read -P 0 5M 512k' -c 'read -P 7 5632k 512k' z.vmdk | diffless
            platter io -c 'write -P 8 0 64k' other.vmdk
            ! platter io -c 'read 0 512' z.vmdk
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: subformats.dropLast()) func resizedImagesAreRead(
        _ subformat: String
    ) throws {
        _ = try run(
            """
            platter create -q -f vmdk -o subformat=\(subformat) a.vmdk 10M
            platter io -c 'write -P 5 0 10M' a.vmdk
            platter resize a.vmdk 5G
            platter io -c 'write -P 6 4G 64k' a.vmdk
            /usr/bin/qemu-img check a.vmdk
            qemu-io -c 'read -P 5 0 10M' -c 'read -P 0 10M 10M' -c 'read -P 6 4G 64k' a.vmdk | diffless
            qemu-io -c 'write -P 8 3G 64k' a.vmdk
            platter io -c 'read -P 8 3G 64k' a.vmdk | diffless
            platter check a.vmdk
            platter resize --shrink a.vmdk 5M
            /usr/bin/qemu-img check a.vmdk
            qemu-io -c 'read -P 5 0 5M' a.vmdk | diffless
            platter check a.vmdk
            """)
    }

    @Test func theSameImageTwice() throws {
        _ = try run(
            """
            export SOURCE_DATE_EPOCH=1700000000
            platter create -q -f raw src.raw 5M
            platter io -f raw -c 'write -P 5 1M 1M' src.raw
            mkdir one two
            for s in \(Self.subformats.joined(separator: " ")); do
              for d in one two; do platter convert -O vmdk -o subformat=$s src.raw $d/$s.vmdk; done
            done
            diff -r one two
            unset SOURCE_DATE_EPOCH
            platter create -q -f vmdk two/monolithicFlat.vmdk 5M
            ! cmp -s one/monolithicFlat.vmdk two/monolithicFlat.vmdk
            """)
    }
}
