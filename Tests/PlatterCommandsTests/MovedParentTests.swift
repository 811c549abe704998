import BlockTestSupport
import Foundation
import Testing

/// Images whose parents are no longer where they state them, but beside them.
@Suite struct MovedParentTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws -> CommandOutcome {
        try fixture.shell("set -e\n" + script, linked: true)
    }

    private static func make(_ format: String, _ parent: String = "../old/parent.img") -> String {
        """
        mkdir vm old; head -c 4M /dev/urandom > s.raw
        platter convert -f raw -O \(format) s.raw old/parent.img
        platter create -q -f \(format) -b \(parent) -F \(format) vm/child.img

        """
    }

    private static let formats = ["vpc", "vhdx", "vmdk"]

    @Test(arguments: ["platter", "qemu-img"], formats)
    func theParentBesideTheChildIsTaken(_ program: String, _ format: String) throws {
        let outcome = try run(
            Self.make(format) + """
                mv old/parent.img vm/
                \(program) convert -f \(format) -O raw vm/child.img o.raw
                head -c 4M o.raw | cmp - s.raw
                (cd vm; \(program) convert -f \(format) -O raw child.img ../o.raw)
                head -c 4M o.raw | cmp - s.raw
                \(program) check -q -f \(format) vm/child.img
                \(program) map -f \(format) vm/child.img | grep -q vm/parent.img
                \(program) info -f \(format) --backing-chain vm/child.img
                platter io -f \(format) -c 'write -P 7 0 64k' vm/child.img > log
                \(program) commit -q -f \(format) vm/child.img
                platter io -f \(format) -r -c 'read -P 7 0 64k' vm/parent.img | grep 65536/65536
                \(program) rebase -f \(format) -b parent.img -F \(format) vm/child.img
                \(program) info -f \(format) vm/child.img
                """)
        #expect(outcome.status == 0, "\(outcome.text)")
        let stated = "backing file: ../old/parent.img (actual path: vm/parent.img)\n"
        #expect(outcome.output.contains(stated), "\(outcome.text)")
        #expect(outcome.output.contains("image: vm/parent.img\n"))
        #expect(outcome.output.hasSuffix("65536/65536 bytes at offset 0\n") == false)
        #expect(outcome.output.contains("backing file: parent.img (actual path: vm/parent.img)\n"))
    }

    /// The stated place comes first; an image that only has the name is none of the parent's.
    @Test(arguments: formats) func onlyTheParentIsTaken(_ format: String) throws {
        let both = try run(
            Self.make(format) + """
                platter create -q -f \(format) vm/parent.img 4M
                qemu-img convert -f \(format) -O raw vm/child.img o.raw; head -c 4M o.raw | cmp - s.raw
                """)
        #expect(both.status == 0, "\(both.text)")
        let other = try run("rm old/parent.img; platter convert -f \(format) -O raw vm/child.img o.raw")
        #expect(other.status == 1, "\(other.text)")
        let none = try run("rm vm/parent.img; qemu-img convert -f \(format) -O raw vm/child.img o.raw")
        let missing = "Could not open 'vm/../old/parent.img'"
        #expect(none.status == 1 && none.error.contains(missing), "\(none.text)")
        let link = try run(
            "ln -s ../../etc/passwd vm/parent.img; platter convert -f \(format) -O raw vm/child.img o.raw")
        #expect(link.status == 1 && link.error.contains("policy"), "\(link.text)")
    }

    /// An absolute place that is gone, and one of Windows.
    @Test(arguments: formats) func absolutePlaces(_ format: String) throws {
        let outcome = try run(
            Self.make(format, "$PWD/old/parent.img") + """
                mv old/parent.img vm/; platter convert -f \(format) -O raw vm/child.img o.raw
                head -c 4M o.raw | cmp - s.raw
                """)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    @Test func aHintOfWindows() throws {
        let outcome = try run(
            Self.make("vmdk", "../old/parent.img") + #"""
                mv old/parent.img vm/; sed -i 's|"../old/parent.img"|"C:\\x\\parent.img"|' vm/child.img
                for p in platter qemu-img; do
                    $p convert -f vmdk -O raw vm/child.img o.raw; head -c 4M o.raw | cmp - s.raw
                done
                """#)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    /// Formats that know their backing file by its name alone take no other.
    @Test(arguments: ["qcow2", "qed", "qcow"])
    func withoutIdentityNothingElseIsTaken(_ format: String) throws {
        let convert = "qemu-img convert -f \(format) -O raw vm/child.img o.raw"
        let outcome = try run(Self.make(format) + "mv old/parent.img vm/; \(convert)")
        #expect(outcome.status == 1 && outcome.error.contains("No such file"), "\(outcome.text)")
    }

    /// A header whose checksum is wrong: read with a warning, found and repaired by a check, not written by.
    @Test func aHeaderWithAWrongChecksum() throws {
        let outcome = try run(
            """
            head -c 6M /dev/urandom > s.raw; platter convert -f raw -O vpc -o force_size=on s.raw a.vhd
            printf '\\001' | dd of=a.vhd bs=1 seek=1500 conv=notrunc status=none
            qemu-img convert -f vpc -O raw a.vhd o.raw 2> warning; cmp s.raw o.raw; cat warning
            ! platter io -f vpc -c 'write 0 4k' a.vhd 2> log; grep -q 'repaired with' log
            ! platter check a.vhd > check 2>&1; grep 'checksum of the header' check
            platter check -q -r all a.vhd; platter check -q a.vhd
            platter io -f vpc -c 'write 0 4k' a.vhd > log
            """)
        #expect(outcome.status == 0, "\(outcome.text)")
        let warning =
            "qemu-img: warning: a.vhd: The checksum of the VHD image's header is wrong; "
            + "'check -r all' repairs it\n"
        #expect(outcome.output == warning + "ERROR: the checksum of the header is wrong\n", "\(outcome.text)")
    }

    /// `-c` chooses no subformat and has no effect on one that stores nothing compressed.
    @Test func compressionOfVmdkAsInQemu() throws {
        let outcome = try run(
            """
            head -c 1M /dev/zero | tr '\\0' x > s.raw
            for o in monolithicSparse twoGbMaxExtentSparse streamOptimized; do
                platter convert -c -f raw -O vmdk -o subformat=$o s.raw $o.vmdk
                platter compare -q s.raw $o.vmdk
            done
            platter convert -c -f raw -O vmdk s.raw d.vmdk; platter info d.vmdk | grep 'create type'
            test $(stat -c %s d.vmdk) -gt 1000000; test $(stat -c %s streamOptimized.vmdk) -lt 200000
            platter create -q -f vmdk n.vmdk 1M; platter convert -n -c -O vmdk s.raw n.vmdk
            platter io -c 'write -c 0 64k' n.vmdk > log; platter check -q n.vmdk
            """)
        #expect(outcome.status == 0 && outcome.output.contains("monolithicSparse"), "\(outcome.text)")
        for line in [
            "platter convert -c -O vmdk -o subformat=monolithicFlat s.raw f.vmdk",
            "platter create -q -f vmdk -o subformat=twoGbMaxExtentFlat n.vmdk 1M; "
                + "platter convert -n -c -O vmdk s.raw n.vmdk",
        ] {
            let flat = try run(line)
            let message = "platter: invalid cluster size\n"
            #expect(flat.status == 1 && flat.error.hasPrefix(message), "\(flat.text)")
        }
        #expect(!fixture.exists("f.vmdk") && !fixture.exists("f-flat.vmdk"))
    }

    /// Space is reserved for what the files have at first: all of a flat disk, the tables of others.
    @Test(arguments: ["falloc", "full"]) func reservedTables(_ mode: String) throws {
        let outcome = try run(
            """
            platter create -q -f vmdk -o preallocation=\(mode) a.vmdk 64M
            platter create -q -f vmdk -o subformat=twoGbMaxExtentSparse,preallocation=\(mode) b.vmdk 64M
            for f in a.vmdk b-s001.vmdk; do test $(($(stat -c %b $f) * 512)) -ge $(stat -c %s $f); done
            platter check -q a.vmdk; platter check -q b.vmdk
            head -c 3M /dev/urandom > s.raw
            platter convert -O vmdk -o preallocation=\(mode) s.raw c.vmdk; platter compare -q s.raw c.vmdk
            """)
        #expect(outcome.status == 0, "\(outcome.text)")
    }
}
