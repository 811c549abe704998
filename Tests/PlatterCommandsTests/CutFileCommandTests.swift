import BlockTestSupport
import Testing

/// Commands on incomplete downloads: never status 0 with zeroes for what is lost.
@Suite struct CutFileCommandTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private static let length = 6 << 20

    /// A disk of noise, and an image of it that was cut after `kept` of its sixteenths.
    private func make(_ format: String, _ options: String = "", kept: Int = 8) throws {
        try fixture.write("s.raw", Pattern.bytes(stamp: 5, at: 0, count: Self.length))
        let outcome = try fixture.shell(
            """
            set -e; platter convert -f raw -O \(format) \(options.isEmpty ? "" : "-o \(options)") s.raw a.img
            f=a.img; for e in a-flat.vmdk a-flat.img a-s001.img; do [ ! -f $e ] || f=$e; done
            truncate -s $(( $(stat -c %s $f) * \(kept) / 16 )) $f
            """, linked: true)
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    private func fails(_ line: String, _ status: Int32 = 1, saying: String = "bytes are missing") throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == status, "\(line): \(outcome.text)")
        #expect(outcome.error.contains(saying), "\(line): \(outcome.error)")
    }

    static let formats = [
        "qcow2", "qcow2 extended_l2=on", "qed", "qcow", "vdi", "vdi static=on", "vpc force_size=on",
        "vhdx block_size=1M", "parallels", "vmdk", "vmdk subformat=monolithicFlat",
        "vmdk subformat=twoGbMaxExtentSparse",
    ]

    @Test(.timeLimit(.minutes(2)), arguments: formats) func everyReaderFails(_ kind: String) throws {
        let words = kind.split(separator: " ").map(String.init)
        let format = words[0]
        try make(format, words.count > 1 ? words[1] : "")
        try fails("qemu-img convert -f \(format) -O raw a.img o.raw")
        try fails("qemu-img convert -C -f \(format) -O raw a.img o.raw")
        // 3: already the map cannot be told, as a table is lost.
        try fails("qemu-img compare -f \(format) -F raw a.img s.raw", format == "qcow" ? 3 : 4)
        try fails("qemu-img dd -f \(format) -O raw if=a.img of=d.raw")
        try fails("qemu-img map -f \(format) --output=json a.img")
        try fails("qemu-img map -f \(format) a.img")
        let io = try fixture.shell("qemu-io -r -f \(format) -c 'read 0 \(Self.length)' a.img", linked: true)
        #expect(io.status == 1, "\(io.text)")
        #expect(io.text.contains("bytes are missing"), "\(io.text)")
        let check = try fixture.shell("qemu-img check -f \(format) a.img", linked: true)
        if format == "vmdk", words.count > 1 {
            #expect(check.status == 2 || check.status == 63, "\(check.text)")
        } else {
            #expect(check.status == 2, "\(check.text)")
        }
        #expect(!check.text.contains("No errors"))
    }

    /// What survived is in the copy, and nothing else.
    @Test(.timeLimit(.minutes(2)), arguments: formats) func salvageGoesOn(_ kind: String) throws {
        let words = kind.split(separator: " ").map(String.init)
        try make(words[0], words.count > 1 ? words[1] : "")
        let outcome = try fixture.shell(
            "qemu-img convert --salvage -f \(words[0]) -O raw a.img o.raw", linked: true)
        #expect(outcome.status == 0, "\(outcome.text)")
        #expect(outcome.error.contains("are taken as zeroes"))
        let (saved, whole) = (try fixture.read("o.raw"), try fixture.read("s.raw"))
        #expect(saved.count >= whole.count)
        var kept = 0
        for start in stride(from: 0, to: whole.count, by: 512) {
            let range = start..<start + 512
            if saved[range] == whole[range] {
                kept += 512
            } else {
                let same = zip(saved[range], whole[range]).prefix { $0 == $1 }.count
                #expect(
                    saved[range].dropFirst(same).allSatisfy { $0 == 0 }, "neither old nor zero at \(start)")
            }
        }
        // VHDX has 4 MiB of tables and log first.
        #expect(kept >= Self.length / 8, "\(kept)")
    }

    @Test func copiesWithinAChainFail() throws {
        try make("qcow2")
        try fixture.shell(
            """
            qemu-img create -q -f qcow2 -b a.img -F qcow2 b.img
            qemu-img create -q -f raw other.raw \(Self.length)
            """, linked: true)
        try fails("platter stream b.img")
        try fails("qemu-img rebase -b other.raw -F raw b.img")
        // An overlay that is cut itself, over a sound base; and a sound overlay over a cut base.
        try fails("qemu-io -f qcow2 -c 'write 0 64k' a.img")
        try fixture.shell("qemu-io -f qcow2 -c 'write -P 1 0 64k' b.img", linked: true)
        try fails("qemu-img commit b.img")
        try fixture.shell(
            """
            qemu-img create -q -f qcow2 -b other.raw -F raw c.img; qemu-io -f qcow2 -c 'write -P 3 0 4M' c.img
            truncate -s 2M c.img
            """, linked: true)
        try fails("qemu-img commit c.img")
    }

    @Test func aMessageNamesTheMissingBytes() throws {
        try make("vdi")
        try fails(
            "qemu-img convert -f vdi -O raw a.img o.raw",
            saying: "bytes, and 3146")
    }

    // MARK: Names

    /// The shared case dmg-without-trailer, and fixed VHDs, which are known by their end as well.
    @Test(arguments: ["x.dmg", "X.DMG", "x.vhd"]) func anEndThatIsMissingIsNoRawDisk(_ name: String) throws {
        try fixture.write(name, Pattern.bytes(stamp: 1, at: 0, count: 1 << 20))
        try fails("qemu-img convert -O raw \(name) o.raw", saying: "may be cut short")
        try fails("qemu-img info \(name)", saying: "name the format 'raw'")
        try expect("qemu-img convert -f raw -O raw \(name) o.raw", 0)
        try expect("cmp \(name) o.raw", 0)
    }

    @Test func soundImagesOfThoseNamesOpen() throws {
        try fixture.write("s.raw", Pattern.bytes(stamp: 1, at: 0, count: 1 << 20))
        for options in ["subformat=fixed,force_size=on", "force_size=on"] {
            try expect("qemu-img convert -f raw -O vpc -o \(options) s.raw x.vhd", 0)
            try expect("qemu-img convert -O raw x.vhd o.raw && cmp s.raw o.raw", 0)
        }
        try expect("qemu-img convert -f raw -O qcow2 s.raw y.dmg && qemu-img convert -O raw y.dmg o.raw", 0)
        try expect("cmp s.raw o.raw", 0)
    }

    // MARK: The shared cases

    /// truncated-vhd
    @Test func aTruncatedVhdFails() throws {
        try make("vpc", "force_size=on", kept: 13)
        try fails("qemu-img convert -f vpc -O raw a.img o.raw")
    }

    /// truncated-qcow2
    @Test func aTruncatedQcow2FailsButIsSalvaged() throws {
        try make("qcow2")
        try fails("qemu-img convert -f qcow2 -O raw a.img o.raw")
        let salvage = try fixture.shell(
            "qemu-img convert --salvage -f qcow2 -O raw a.img o.raw", linked: true)
        #expect(salvage.status == 0, "\(salvage.text)")
    }

    /// qed-last-cluster-cut
    @Test func checkSeesThatTheLastClusterOfQedIsNotWhole() throws {
        try fixture.write("s.raw", Pattern.bytes(stamp: 5, at: 0, count: 10 << 20))
        try expect("qemu-img convert -f raw -O qed s.raw a.qed && truncate -s -512 a.qed", 0)
        let check = try fixture.shell("qemu-img check a.qed", linked: true)
        #expect(check.status == 2, "\(check.text)")
        try fails("qemu-img convert -f qed -O raw a.qed o.raw")
    }

    /// A compressed cluster has to be whole, also the last one of the file.
    @Test func aCompressedClusterIsCut() throws {
        try expect("yes 'some text' | head -c 1M > s.raw; platter convert -c -f raw -O qcow2 s.raw a.img", 0)
        try expect(
            "platter map --output=json a.img >/dev/null && qemu-io -f qcow2 -c 'write -q 0 1' a.img", 0)
        try expect("platter convert -c -f raw -O qcow2 s.raw a.img; truncate -s -512 a.img", 0)
        try fails("qemu-img map -f qcow2 --output=json a.img")
        // What can be seen in part is whole.
        try expect("qemu-img map -f qcow2 --output=json -l 512k a.img > /dev/null", 0)
        let io = try fixture.shell("qemu-io -f qcow2 -c 'write 0 1' a.img", linked: true)
        #expect(io.status == 1 && io.error.contains("but not written to"), "\(io.text)")
        try fails("platter convert -f qcow2 -O raw a.img o.raw")
    }

    /// Growing the file again would turn what a snapshot has lost into zeroes.
    @Test func aSnapshotAloneIsCut() throws {
        try expect(
            "platter create -q -f qcow2 a.img 4M; qemu-io -f qcow2 -d unmap -c 'write -q -P 1 0 2M' "
                + "-c 'discard -q 0 512k' a.img; platter snapshot -c s a.img; "
                + "qemu-io -f qcow2 -d unmap -c 'discard -q 512k 1536k' a.img", 0)
        try expect(
            "cp a.img whole.img; qemu-io -f qcow2 -c 'write -q 0 1' whole.img; truncate -s -256k a.img", 0)
        let io = try fixture.shell("qemu-io -f qcow2 -c 'write 0 1' a.img", linked: true)
        #expect(io.status == 1 && io.error.contains("Data of a snapshot is beyond the end"), "\(io.text)")
        try fails("platter snapshot -d s a.img")
        try fails("platter convert -f qcow2 -l s -O raw a.img o.raw")
        #expect(
            try fixture.shell("platter check -r all a.img", linked: true).text.contains("of snapshot 's'"))
        try expect("qemu-io -f qcow2 -c 'write -q 0 1' a.img; platter snapshot -d s a.img", 0)
    }

    /// Damage that only a repair hides stays visible until then.
    @Test func aRepairTellsWhatItGivesUp() throws {
        try make("vdi")
        let repair = try fixture.shell("qemu-img check -r all a.img", linked: true)
        #expect(repair.text.contains("Repairing block"), "\(repair.text)")
        try expect("qemu-img convert -f vdi -O raw a.img o.raw", 0)
    }
}
