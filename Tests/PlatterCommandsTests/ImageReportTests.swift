import BlockTestSupport
import Foundation
import Testing

/// The commands that tell of images, as a person calls them.
@Suite struct ImageReportTests: CommandSuite {
    let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    // MARK: info

    @Test("info opens no file that an image names, and the chain only as the policy says")
    func infoOpensNothing() throws {
        try expect(
            "mkdir d; platter create -q -f raw d/base.raw 1M; platter create -q -f raw base.raw 1M; "
                + "platter create -q -f qcow2 -b d/base.raw -F raw a.qcow2; "
                + "platter create -q -f qcow2 -b base.raw -F raw b.qcow2; rm d/base.raw", 0)
        #expect(try fixture.platter("info", "a.qcow2").status == 0)
        #expect(try fixture.platter("info", "--backing-chain", "a.qcow2").status == 1)
        #expect(try fixture.platter("info", "--backing-chain", "b.qcow2").status == 0)
        let strict = try fixture.platter("--open-policy=same-folder", "info", "--backing-chain", "a.qcow2")
        #expect(strict.status == 1)
        #expect(
            strict.error.hasPrefix("platter: The open policy does not allow the backing file 'd/base.raw'\n"))
        #expect(strict.output.contains("image: a.qcow2") && strict.error.contains("PLATTER_OPEN_POLICY=any"))
        #expect(
            try fixture.platter("--open-policy", "same-folder", "info", "--backing-chain", "b.qcow2").status
                == 0)
        #expect(
            try fixture.platter("--open-policy", "none", "info", "--backing-chain", "b.qcow2").status == 1)
        #expect(try fixture.platter("--open-policy", "none", "info", "b.qcow2").status == 0)
        #expect(try fixture.platter("--open-policy", "none", "check", "b.qcow2").status == 1)
    }

    @Test("an image does not get a file outside its folder opened as its data, unless the user says so")
    func dataFilesElsewhere() throws {
        for (name, image) in [("../victim", "up.qcow2"), ("\(fixture.folder.path)/victim", "away.qcow2")] {
            try fixture.shell("mkdir -p d", linked: true)
            let options = "data_file=\(name),data_file_raw=on"
            try fixture.platter("create", "-q", "-f", "qcow2", "-o", options, "d/\(image)", "64k")
            let victim = [UInt8](repeating: 7, count: 65536)
            try fixture.write("victim", victim)
            for command in ["resize --shrink d/\(image) 512", "convert d/\(image) out.raw"] {
                let refused = try fixture.shell("platter \(command)", linked: true)
                #expect(refused.status == 1)
                let reason = "The open policy does not allow the data file '\(name)', which"
                #expect(refused.error.contains(reason), "\(refused.error)")
            }
            #expect(try fixture.read("victim") == victim)
            #expect(try fixture.platter("info", "d/\(image)").status == 0)
            #expect(try fixture.platter("--open-policy=any", "convert", "d/\(image)", "out.raw").status == 0)
            #expect(try fixture.read("out.raw") == victim)
            let named = "driver=qcow2,file.filename=d/\(image),data-file.filename=victim"
            #expect(try fixture.platter("map", "--image-opts", named).status == 0)
        }
    }

    @Test("a chain that loops is told of")
    func loop() throws {
        try expect(
            "platter create -q -f qcow2 a.qcow2 1M; platter create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2; "
                + "platter rebase -u -b b.qcow2 -F qcow2 a.qcow2", 0)
        let outcome = try fixture.platter("info", "--backing-chain", "a.qcow2")
        #expect(outcome.status == 1)
        #expect(outcome.error == "platter: Backing file 'a.qcow2' creates an infinite loop.\n")
    }

    @Test("the actual path is told where it differs")
    func actualPath() throws {
        try expect("mkdir d; platter create -q -f qcow2 -u -b ../a.qcow2 -F qcow2 d/o.qcow2 1M", 0)
        let outcome = try fixture.platter("info", "d/o.qcow2")
        #expect(outcome.output.contains("\nbacking file: ../a.qcow2 (actual path: d/../a.qcow2)\n"))
    }

    // MARK: map

    @Test("map tells runs of a chain, in both forms")
    func map() throws {
        try fixture.write(
            "base.raw", [UInt8](repeating: 1, count: 65536) + [UInt8](repeating: 2, count: 65536))
        try expect(
            "platter create -q -f qcow2 -b base.raw -F raw top.qcow2 256k; "
                + "qemu-io -f qcow2 -c 'write -q -P 3 64k 64k' top.qcow2", 0)
        try expect(
            "platter map top.qcow2", 0,
            """
            Offset          Length          Mapped to       File
            0               0x10000         0               base.raw
            0x10000         0x10000         0x50000         top.qcow2

            """)
        func run(_ start: Int, _ length: Int, _ depth: Int, _ rest: String) -> String {
            "{ \"start\": \(start), \"length\": \(length), \"depth\": \(depth), \(rest)}"
        }
        let data = "\"present\": true, \"zero\": false, \"data\": true, \"compressed\": false, \"offset\": "
        let none = "\"present\": false, \"zero\": true, \"data\": false, \"compressed\": false"
        try expect(
            "platter map --output=json top.qcow2", 0,
            "[" + run(0, 65536, 1, data + "0") + ",\n" + run(65536, 65536, 0, data + "327680") + ",\n"
                + run(131072, 131072, 0, none) + "]\n")
        try expect(
            "platter map --output=json -s 70000 -l 1k top.qcow2", 0,
            "[" + run(70000, 1024, 0, data + "332144") + "]\n")
        try expect(
            "platter map --output=json -s 1M top.qcow2", 0,
            "[{ \"start\": 1048576, \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, "
                + "\"data\": false, \"compressed\": false}]\n")
        try expect("platter map -s x top.qcow2", 1, "", "platter: Invalid start offset specified: 'x'\n")
    }
}
