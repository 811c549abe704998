import BlockTestSupport
import Foundation
import Testing

/// File names, and names inside images, that are not UTF-8.
@Suite struct RawNameTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    /// In the shell, `$n` is a name and `$d` a folder's.
    private static let setup = "set -e; n=$(printf 'caf\\351'); d=$(printf 'd\\374r'); mkdir $d\n"

    @discardableResult private func ok(_ script: String) throws -> CommandOutcome {
        let outcome = try fixture.shell(Self.setup + script, linked: true)
        #expect(outcome.status == 0, "\(script): \(outcome.text)")
        return outcome
    }

    @Test(arguments: ["platter", "qemu-img"], ["qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx"])
    func chains(_ program: String, _ format: String) throws {
        let outcome = try ok(
            """
            head -c 2M /dev/urandom > $n.raw
            \(program) convert -q -f raw -O \(format) $n.raw $d/$n.img
            \(program) create -q -f \(format) -b $n.img -F \(format) $d/o-$n.img
            \(program) create -q -f \(format) -o backing_file=$n.img,backing_fmt=\(format) $d/p-$n.img
            \(program) compare -q -f \(format) -F \(format) $d/o-$n.img $d/p-$n.img
            \(program) rebase -f \(format) -b $n.img -F \(format) $d/o-$n.img
            \(program) info -f \(format) --backing-chain $d/o-$n.img | grep -qaF "backing file: $n.img"
            \(program) info -f \(format) --output=json $d/o-$n.img > json
            \(program) convert -f \(format) -O raw $d/o-$n.img $n.out
            head -c 2M $n.out | cmp - $n.raw
            \(program) check -q -f \(format) $d/o-$n.img
            \(program) commit -q -f \(format) $d/o-$n.img
            \(program) map -f \(format) $d/o-$n.img | grep -qa $n
            (cd $d && \(program) create -q -f \(format) -b $PWD/$n.img -F \(format) abs.img)
            \(program) convert -f \(format) -O raw $d/abs.img $n.out
            cat json
            """)
        // As in qemu-img's output.
        #expect(outcome.output.contains(#""backing-filename": "caf\uFFFD.img""#), "\(outcome.output)")
    }

    /// What QEMU wrote, and QEMU on what we wrote.
    @Test func qemuFindsTheSameFiles() throws {
        try ok(
            """
            qemu=$(PATH=/usr/bin:/bin command -v qemu-img) || exit 0
            for f in qcow2 qcow qed vmdk; do
                $qemu create -q -f $f $n.$f 1M; $qemu create -q -f $f -b $n.$f -F $f $d-$n.$f
                platter convert -f $f -O raw $d-$n.$f out.raw
                platter create -q -f $f -b $n.$f -F $f o-$n.$f; $qemu convert -f $f -O raw o-$n.$f out.raw
            done
            platter create -q -f qcow2 -o data_file=$n.data df.qcow2 1M; $qemu convert df.qcow2 out.raw
            platter create -q -f qcow2 s.qcow2 1M; platter snapshot -c $n s.qcow2
            $qemu snapshot -a $n s.qcow2
            platter bitmap --add s.qcow2 $n; $qemu bitmap --disable s.qcow2 $n
            """)
    }

    @Test func everyWayToNameAFile() throws {
        try ok(
            """
            platter create -q -f qcow2 $d/$n.qcow2 1M
            platter convert --image-opts -O qcow2 driver=qcow2,file.filename=$d/$n.qcow2 $n.1
            json="{'driver':'qcow2','file':{'driver':'file','filename':'$d/$n.qcow2'}}"
            platter convert -O raw "json:$json" $n.2
            platter convert -O qcow2 file:$d/$n.qcow2 file:$n.3
            platter convert -B $n.qcow2 -F qcow2 -O qcow2 $d/$n.qcow2 $d/$n.4
            platter dd if=$n.1 of=$n.5 -O raw
            printf pass > $n.key
            platter create -q --object secret,id=s,file=$n.key -f luks -o key-secret=s,iter-time=10 $n.6 1M
            ln -s $n.1 $n.link; platter info $n.link; ln -s $n.gone $n.dangling
            platter create -q -f qcow2 -b $n.link -F qcow2 $n.7; platter convert -O raw $n.7 $n.8
            platter create -q -f qcow2 $n.dangling 1M; test -f $n.gone
            platter io -c 'write 0 4k' $n.1; platter bench -c 2 $n.1
            printf "open $n.1\\nread 0 4k\\n" | platter io | grep -q 4096/4096
            (cd $d; TMPDIR=$PWD platter io -s -c 'write 0 4k' $n.qcow2)
            platter info /proc/self/fd/7 7< $n.1
            for s in monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat; do
                platter convert -O vmdk -o subformat=$s $n.1 $n-$s.vmdk; platter resize $n-$s.vmdk 3G
                platter compare --strict -q $n-$s.vmdk $n-$s.vmdk
            done
            ! ls | grep -a partial
            """)
        #expect(try !fixture.shell("ls -a | grep -a partial").output.contains("partial"))
    }

    @Test func snapshotsAndBitmapsHaveNamesOfBytes() throws {
        try ok(
            """
            platter create -q -f qcow2 a.qcow2 1M; platter io -c 'write -P 5 0 64k' a.qcow2
            platter snapshot -c $n a.qcow2; platter snapshot -l a.qcow2 | grep -qaF $n
            grep -qaF $n a.qcow2; platter io -c 'write -P 6 0 64k' a.qcow2
            platter convert -l $n -O raw a.qcow2 a.raw
            platter io -f raw -c 'read -P 5 0 64k' a.raw | grep -q 65536/
            platter convert -l snapshot.name=$n -O raw a.qcow2 a.raw
            platter snapshot -a $n a.qcow2; platter io -c 'read -P 5 0 64k' a.qcow2 | grep -q 65536/65536
            # To Swift these are equal.
            platter snapshot -c $(printf 'e\\314\\201') a.qcow2
            ! platter snapshot -d $(printf '\\303\\251') a.qcow2 2> log
            platter snapshot -d $n a.qcow2; platter bitmap --add a.qcow2 $n
            platter bitmap --disable a.qcow2 $n
            platter bitmap --remove a.qcow2 $n; platter check -q a.qcow2
            """)
    }

    /// Errors show the bytes.
    @Test func errorsNameTheFile() throws {
        let outcome = try fixture.shell(
            Self.setup + "platter info $n.gone 2>&1 | cat -v; printf 'a\\233b' | xargs platter info 2>&1",
            linked: true)
        let name = "Could not open 'cafM-i.gone'"
        #expect(outcome.output.contains("platter: \(name): \(name): No such file or directory"))
        #expect(outcome.output.contains(#"'a\x9bb'"#))
    }

    // MARK: VMDK in old character sets

    static let encodings = [
        ("windows-1252", #"\357"#, "\u{EF}"), ("ISO-8859-15", #"\244"#, "\u{20AC}"),
        ("Windows-1251", #"\344"#, "\u{434}"), ("windows-1250", #"\350"#, "\u{10D}"),
        ("IBM437", #"\201"#, "\u{FC}"), ("cp850", #"\233"#, "\u{F8}"), ("ISO_8859-1", #"\377"#, "\u{FF}"),
    ]

    @Test(arguments: encodings.indices) func descriptorsInOldCharacterSets(_ index: Int) throws {
        let (encoding, byte, character) = Self.encodings[index]
        let make = """
            head -c 1M /dev/urandom > want.raw; name=$(printf 'd\(byte)')
            cat > d.vmdk << END
            # Disk DescriptorFile
            version=1
            encoding="\(encoding)"
            CID=fffffffe
            parentCID=ffffffff
            createType="monolithicFlat"
            RW 2048 FLAT "$name" 0
            END

            """
        // The text first, then also a file of the bytes themselves, which comes first.
        try ok(
            make + """
                cp want.raw "d\(character)"; platter convert -O raw d.vmdk o.raw; cmp want.raw o.raw
                platter check -q d.vmdk; platter info d.vmdk | grep -q '1 MiB'
                qemu-img convert -O raw d.vmdk o.raw; cmp want.raw o.raw
                head -c 1M /dev/zero > "d\(character)"; cp want.raw $name
                platter convert -O raw d.vmdk o.raw; cmp want.raw o.raw
                """)
        let gone = try fixture.shell("rm d*[^k]; platter convert -O raw d.vmdk o.raw", linked: true)
        #expect(gone.status == 1 && gone.error.contains("is missing"), "\(gone.text)")
    }
}
