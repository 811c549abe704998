import BlockTestSupport
import Testing

/// Links in a folder with an image from a stranger lead to no other files; arguments keep their bytes.
@Suite struct LinkPolicyTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.shell("mkdir in out; printf SECRET > out/s; truncate -s 4096 out/s")
    }

    /// A flat disk of 4 KiB in the file of that name.
    private func descriptor(_ extent: String, in folder: String = "in") throws {
        try fixture.shell(
            """
            printf '# Disk DescriptorFile\\nversion=1\\nCID=12345678\\nparentCID=ffffffff\\n\
            createType="monolithicFlat"\\nRW 8 FLAT "\(extent)" 0\\n' > \(folder)/d.vmdk
            """)
    }

    @Test(arguments: ["link", "folder/s", "far"]) func linksLeadNowhere(_ name: String) throws {
        try fixture.shell("ln -s ../out/s in/link; ln -s ../out in/folder; ln -s $PWD/out/s in/far")
        try descriptor(name)
        let before = try fixture.read("out/s")
        for command in ["convert -f vmdk -O raw in/d.vmdk x", "io -f vmdk -c 'write -P 9 0 4k' in/d.vmdk"] {
            let outcome = try fixture.shell("platter \(command)", linked: true)
            #expect(outcome.status == 1, "\(outcome.text)")
            #expect(outcome.error.contains("does not allow the extent file '\(name)'"), "\(outcome.text)")
            #expect(try fixture.read("out/s") == before)
        }
        let allowed = try fixture.shell(
            "platter --open-policy=any convert -f vmdk -O raw in/d.vmdk x", linked: true)
        #expect(allowed.status == 0, "\(allowed.text)")
        #expect(try fixture.read("x") == before)
    }

    /// Data files of qcow2 images are opened for writing, too.
    @Test func dataFilesMayBeNoLinksElsewhere() throws {
        try fixture.shell("cd in; platter create -q -f qcow2 -o data_file=data d.qcow2 1M", linked: true)
        try fixture.shell("rm in/data; ln -s ../out/s in/data")
        let before = try fixture.read("out/s")
        let outcome = try fixture.platter("resize", "in/d.qcow2", "2M")
        #expect(
            outcome.status == 1 && outcome.error.contains("does not allow the data file"), "\(outcome.text)")
        #expect(try fixture.read("out/s") == before)
    }

    @Test func linksInsideTheFolderAreFollowed() throws {
        try fixture.shell("cp out/s in/part; ln -s part in/link; mkdir in/deep; cp out/s in/deep/s")
        for name in ["link", "deep/s", "part"] {
            try descriptor(name)
            #expect(try fixture.platter("convert", "-f", "vmdk", "-O", "raw", "in/d.vmdk", "x").status == 0)
        }
    }

    /// Image and extent lie in one folder, to which links in another lead.
    @Test func anImageBehindALinkHasItsOwnFolder() throws {
        try descriptor("s", in: "out")
        try fixture.shell("ln -s ../out/d.vmdk in/d.vmdk; ln -s ../out/s in/s")
        let outcome = try fixture.platter("convert", "-f", "vmdk", "-O", "raw", "in/d.vmdk", "x")
        #expect(outcome.status == 0, "\(outcome.text)")
    }

    @Test func twoNamesNeverBecomeOne() throws {
        let names = [
            #"a\xe9"#, #"a\xe8"#, #"a\xc3\xa9"#, #"ae\xcc\x81"#, #"a\xf4\x8f\xbf\xa9"#, #"a\xef\xbf\xbd"#,
        ]
        for name in names {
            let outcome = try fixture.shell(
                "platter create -q -f raw $'\(name)' 1M && ls $'\(name)'", linked: true)
            #expect(outcome.status == 0, "\(name): \(outcome.text)")
        }
        #expect(try fixture.shell("ls -d a* | wc -l").output == "\(names.count)\n")
    }
}
