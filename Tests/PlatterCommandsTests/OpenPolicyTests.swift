import BlockTestSupport
import Testing

/// What an image may have opened under each name of the program, and what `info` says of it.
@Suite struct OpenPolicyTests {
    private let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.shell("mkdir in out; truncate -s 1M in/base.raw out/base.raw; printf X > out/base.raw")
        try fixture.shell("truncate -s 1M out/base.raw")
    }

    private func overlay(_ backing: String, _ name: String = "o.qcow2") throws {
        let made = try fixture.shell(
            "cd in && platter create -q -u -f qcow2 -b '\(backing)' -F raw \(name) 1M", linked: true)
        #expect(made.status == 0, "\(made.text)")
    }

    /// Under QEMU's names an image opens what it names, unless the option or the variable says otherwise.
    @Test func theNameChoosesThePolicy() throws {
        try overlay("../out/base.raw")
        for (line, status) in [
            ("platter map in/o.qcow2", 1), ("qemu-img map in/o.qcow2", 0),
            ("qemu-io -r -c 'read 0 4k' in/o.qcow2", 0), ("platter --open-policy=any map in/o.qcow2", 0),
            ("PLATTER_OPEN_POLICY=any platter map in/o.qcow2", 0),
            ("PLATTER_OPEN_POLICY=any platter --open-policy default map in/o.qcow2", 1),
            ("qemu-img --open-policy=default map in/o.qcow2", 1),
            ("PLATTER_OPEN_POLICY=default qemu-img map in/o.qcow2", 1),
            ("qemu-io --open-policy=default -r -c 'read 0 4k' in/o.qcow2", 1),
            ("PLATTER_OPEN_POLICY=everything platter map in/o.qcow2", 1),
        ] {
            let outcome = try fixture.shell(line, linked: true)
            #expect(Int(outcome.status) == status, "\(line): \(outcome.text)")
            if status == 1 { #expect(outcome.error.contains("PLATTER_OPEN_POLICY"), "\(outcome.text)") }
        }
    }

    @Test func optionsAndProtocolsInsideAnImageNeedAny() throws {
        let inside = #"json:{"driver":"raw","file.filename":"in/base.raw"}"#
        try overlay(inside)
        #expect(try fixture.shell("platter map in/o.qcow2", linked: true).status == 0)
        let info = try fixture.shell("platter info --output=json in/o.qcow2", linked: true).output
        #expect(info.contains(#""allowed": true"#) && info.contains("its files are in the image's folder"))
        for name in [
            "file:base.raw", #"json:{"driver":"null-co"}"#,
            #"json:{"driver":"raw","file.filename":"out/base.raw"}"#,
            #"json:{"driver":"raw","file":{"driver":"throttle","file.filename":"in/base.raw"}}"#,
            #"json:{"driver":"qcow2","file.filename":"in/q.qcow2","backing.file.filename":"out/base.raw"}"#,
            #"json:{"driver":"qcow2","file.filename":"in/q.qcow2","data-file.filename":"out/base.raw"}"#,
        ] {
            try fixture.shell("cd in && qemu-img create -q -f qcow2 -o data_file=d q.qcow2 1M", linked: true)
            try overlay(name)
            let refused = try fixture.shell("platter map in/o.qcow2", linked: true)
            #expect(refused.status == 1 && refused.error.contains("does not allow"), "\(refused.text)")
            let info = try fixture.shell("platter info --output=json in/o.qcow2", linked: true)
            #expect(info.status == 0 && info.output.contains(#""allowed": false"#), "\(name): \(info.text)")
        }
        try overlay("file:base.raw")
        #expect(try fixture.shell("cd in && qemu-img map o.qcow2", linked: true).status == 0)
    }

    /// What the user names is allowed, also where the image names it.
    @Test func filesThatTheUserNames() throws {
        for line in [
            "platter create -q -f qcow2 -b ../out/base.raw -F raw in/n.qcow2",
            "platter rebase -u -b '' in/n.qcow2", "platter rebase -b ../out/base.raw -F raw in/n.qcow2",
            "platter commit -b ../out/base.raw in/n.qcow2",
            "platter convert -q -O qcow2 -B ../out/base.raw -F raw in/base.raw in/m.qcow2",
            "platter create -q -f qcow2 -o data_file=../out/data in/d.qcow2 1M",
            "platter map --image-opts "
                + "driver=qcow2,file.filename=in/n.qcow2,backing.file.filename=out/base.raw",
        ] {
            let outcome = try fixture.shell(line, linked: true)
            #expect(outcome.status == 0, "\(line): \(outcome.text)")
        }
        #expect(try fixture.shell("platter map in/n.qcow2", linked: true).status == 1)
    }

    /// An image's data is never a file of the host.
    @Test func dataFilesOfTheHost() throws {
        try fixture.shell("cd in; qemu-img create -q -f qcow2 -o data_file=d d.qcow2 1M", linked: true)
        try fixture.shell("rm in/d; ln -s /etc/passwd in/d")
        for line in ["convert in/d.qcow2 x.raw", "check in/d.qcow2", "io -c 'write 0 1k' in/d.qcow2"] {
            let outcome = try fixture.shell("platter \(line)", linked: true)
            #expect(outcome.status == 1 && outcome.error.contains("data file"), "\(outcome.text)")
        }
    }

    @Test func infoListsWhatAnImageNames() throws {
        try fixture.shell(
            """
            cd in; platter create -q -f vmdk -o subformat=twoGbMaxExtentFlat s.vmdk 5G
            rm s-f002.vmdk; ln -s ../out/base.raw s-f002.vmdk; printf 12345678 > s-f001.vmdk
            """, linked: true)
        let outcome = try fixture.shell("platter info --output=json in/s.vmdk", linked: true)
        let text = outcome.output.filter { $0 != " " && $0 != "\n" }
        let names = ["extents.2", "extents.1", "extents.0", "file"].map { "\"name\":\"\($0)\",\"info\"" }
        let places = names.compactMap { text.firstRange(of: $0)?.lowerBound }
        #expect(places.count == 4 && places == places.sorted(), "\(outcome.text)")
        for (index, isAllowed) in [true, false, true].enumerated() {
            let name = "s-f00\(index + 1).vmdk"
            let entry =
                #""role":"extents.\#(index)","name":"\#(name)","resolved":"in/\#(name)","#
                + #""allowed":\#(isAllowed)"#
            #expect(text.contains(entry), "\(outcome.text)")
        }
        let people = try fixture.shell("platter info in/s.vmdk", linked: true).output
        #expect(people.contains("Child node '/extents.1':\n    filename: in/s-f002.vmdk\n"))
        #expect(people.contains("    not opened: The open policy does not allow the extent file"))
    }

    /// What can be told is told, then the error.
    @Test func infoOfAChainPrintsWhatItCan() throws {
        try overlay("missing.raw", "a.qcow2")
        try fixture.shell("cd in; platter create -q -u -f qcow2 -b a.qcow2 -F qcow2 b.qcow2 1M", linked: true)
        let outcome = try fixture.shell("platter info --backing-chain in/b.qcow2", linked: true)
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("image: in/b.qcow2") && outcome.output.contains("image: in/a.qcow2"))
        #expect(outcome.error.contains("missing.raw"))
        let opened = try fixture.shell("platter map in/b.qcow2", linked: true).error
        #expect(opened.ranges(of: "Could not open backing file").count == 1, "\(opened)")
    }

    /// A link that leads nowhere makes nothing.
    @Test func growingMakesNothingElsewhere() throws {
        try fixture.shell(
            "cd in; platter create -q -f vmdk -o subformat=twoGbMaxExtentSparse d.vmdk 1G; "
                + "ln -s ../out/made d-s002.vmdk", linked: true)
        for name in ["platter", "qemu-img"] {
            #expect(try fixture.shell("\(name) resize in/d.vmdk 4G", linked: true).status == 1)
            #expect(!fixture.exists("out/made"))
        }
        try fixture.shell("rm in/d-s002.vmdk")
        let grown = try fixture.shell("platter resize in/d.vmdk 4G && platter check in/d.vmdk", linked: true)
        #expect(grown.status == 0, "\(grown.text)")
    }
}
