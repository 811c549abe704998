import BlockTestSupport
import Foundation
import Testing

/// A root file system of real files, taken through everything that a disk meets in its life.
@Suite(.serialized) struct RealDiskTests {
    /// Every line must succeed. `$P` is the program under test.
    private static let life = """
        set -eux
        for folder in /usr/lib/x86_64-linux-gnu /usr/share /usr/lib /usr; do
            size=$(du -smx $folder | cut -f1)
            if [ "$size" -ge 500 ]; then break; fi
        done
        [ "$size" -ge 500 ]
        truncate -s $((size + size / 3 + 64))M disk.raw
        mke2fs -q -F -t ext4 -d $folder disk.raw
        e2fsck -fn disk.raw

        # raw -> qcow2, in every way
        $P convert -f raw -O qcow2 disk.raw plain.qcow2
        $P convert -c -f raw -O qcow2 disk.raw zlib.qcow2
        $P convert -c -W -f raw -O qcow2 -o compression_type=zstd disk.raw zstd.qcow2
        for image in plain zlib zstd; do
            qemu-img check -q $image.qcow2
            $P check -q $image.qcow2
            qemu-img compare -f raw -F qcow2 disk.raw $image.qcow2
        done

        # Edits of the file system, brought into an overlay by a safe rebase
        cp --sparse=always disk.raw edited.raw
        head -c 3000000 /dev/urandom > new-file
        debugfs -w -R "write new-file new-file" edited.raw
        e2fsck -fn edited.raw
        $P create -q -f qcow2 -b edited.raw -B raw over.qcow2
        $P rebase -b zlib.qcow2 -B qcow2 over.qcow2
        qemu-img check -q over.qcow2
        qemu-img compare -f raw -F qcow2 edited.raw over.qcow2

        # A snapshot, other contents, and back
        $P snapshot -c before over.qcow2
        cp --sparse=always edited.raw later.raw
        debugfs -w -R "rm new-file" later.raw
        $P convert -n -f raw -O qcow2 later.raw over.qcow2
        qemu-img check -q over.qcow2
        qemu-img compare -f raw -F qcow2 later.raw over.qcow2
        $P convert -l before -O raw over.qcow2 before.raw
        cmp before.raw edited.raw
        $P snapshot -a before over.qcow2
        qemu-img compare -f raw -F qcow2 edited.raw over.qcow2
        $P snapshot -d before over.qcow2
        qemu-img check -q over.qcow2
        rm before.raw later.raw

        # Another base, commit into a third, and independence
        $P rebase -b zstd.qcow2 -B qcow2 over.qcow2
        qemu-img compare -f raw -F qcow2 edited.raw over.qcow2
        $P create -q -f qcow2 -b plain.qcow2 -B qcow2 small.qcow2
        $P convert -n -f raw -O qcow2 edited.raw small.qcow2
        $P commit -q small.qcow2
        qemu-img check -q plain.qcow2
        qemu-img compare -f raw -F qcow2 edited.raw plain.qcow2
        $P stream -q over.qcow2
        if $P info over.qcow2 | grep 'backing file'; then exit 1; fi
        qemu-img check -q over.qcow2

        # And to raw again
        $P convert -O raw over.qcow2 back.raw
        cmp edited.raw back.raw
        e2fsck -fn back.raw
        """

    @Test(.timeLimit(.minutes(10)))
    func aRootFileSystemSurvivesItsLife() throws {
        let fixture = try CommandFixture()
        let outcome = try fixture.shell("P=\(CommandFixture.platter.path)\n\(Self.life)")
        #expect(outcome.status == 0, "\(outcome.output.suffix(500)) \(outcome.error.suffix(1500))")
    }
}
