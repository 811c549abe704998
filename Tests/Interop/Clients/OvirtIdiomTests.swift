import BlockCore
import BlockTestSupport
import Foundation
import Testing

/// How oVirt calls qemu-img: oVirt/vdsm lib/vdsm/storage/qemuimg.py and oVirt/ovirt-imageio
/// ovirt_imageio/_internal/qemu_img.py.
@Suite struct OvirtIdiomTests {
    let stage: ClientStage

    init() throws { stage = try ClientStage() }

    // ProgressCommand: REGEXPR on what stands between carriage returns.
    private func expectProgress(_ output: String) throws {
        let records = output.split(separator: "\r", omittingEmptySubsequences: true).map(String.init)
        let numbers = try records.filter { $0 != "\n" }.map { record in
            let match = try #require(record.wholeMatch(of: /\s*\(([\d.]+)\/100%\)\s*/), "\(record)")
            return try #require(Double(match.1))
        }
        #expect(numbers == numbers.sorted() && numbers.first == 0 && numbers.last == 100)
    }

    @Test func create() throws {
        try stage.run(
            "qemu-img create -f qcow2 -o compat=1.1 -b nothing.qcow2 -F qcow2 -o preallocation=off "
                + "-u u.qcow2 "
                + "1048576")
        let info = try stage.json(
            "qemu-img info --output json -f qcow2 -U u.qcow2",
            same: [
                "format", "virtual-size", "cluster-size", "backing-filename", "format-specific",
            ])
        let data = (info["format-specific"] as? [String: Any])?["data"] as? [String: Any]
        #expect(data?["compat"] as? String == "1.1" && data?["bitmaps"] == nil)
        #expect(info["actual-size"] is Int)
    }

    @Test func convertAndCheck() throws {
        let moved = try stage.run(
            "qemu-img convert -p -t none -T none -f raw -O qcow2 -o compat=1.1,preallocation=falloc "
                + "-W src.raw "
                + "w.qcow2")
        try expectProgress(moved.output)
        try stage.expectSource("w.qcow2", "qcow2")
        // The end of the image tells how far a volume may be cut.
        let check = try stage.json("qemu-img check --output json -f qcow2 w.qcow2", same: ["leaks"])
        let end = try #require(check["image-end-offset"] as? Int)
        #expect(end <= (try stage.ours.read("w.qcow2").count.roundedUp(to: 65536) ?? 0))
        try stage.run("qemu-img amend -o compat=0.10 w.qcow2")
        try stage.expectSource("w.qcow2", "qcow2")
    }

    // check: status 3 means leaks and the JSON comes all the same.
    @Test func checkTellsLeaks() throws {
        try stage.run("qemu-img create -q -f qcow2 leak.qcow2 1M")
        // A second cluster of refcounts is referred to by nothing.
        try stage.run("printf '\\0\\1' | dd of=leak.qcow2 bs=1 seek=$((0x20000 + 20)) conv=notrunc 2>&1")
        try stage.run("truncate -s 720896 leak.qcow2")
        let check = try stage.json("qemu-img check --output json leak.qcow2", same: ["leaks"])
        #expect(check["leaks"] as? Int == 1 && check["image-end-offset"] is Int)
        try stage.run("qemu-img check --output json leak.qcow2", 3)
    }

    @Test func measure() throws {
        try stage.run("qemu-img create -q -f qcow2 -b src.raw -F raw top.qcow2")
        for node in [
            #"{"file": {"driver": "file", "filename": "top.qcow2"}, "driver": "qcow2", "backing": null}"#,
            #"{"file": {"driver": "file", "filename": "top.qcow2"}, "driver": "qcow2"}"#,
            #"{"file": {"driver": "file", "filename": "src.raw"}}"#,
        ] {
            let line = "qemu-img measure --output json -O qcow2 'json:\(node)'"
            let sizes = try stage.json(line, same: ["required", "fully-allocated"])
            #expect(sizes["required"] is Int)
        }
    }

    @Test func commitAndRebase() throws {
        try stage.run("qemu-img create -q -f raw base.raw 1M")
        try stage.run("qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2")
        try stage.run("qemu-img convert -q -n -f raw -O qcow2 src.raw mid.qcow2")
        try stage.run("qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2")
        let alone = try stage.run("qemu-img commit -p -t none -d -f qcow2 top.qcow2")
        #expect(alone.output.hasSuffix("Image committed.\n"))
        let down = try stage.run("qemu-img commit -p -t none -b base.raw -f qcow2 top.qcow2")
        #expect(down.output.hasSuffix("Image committed.\n"))
        #expect(try stage.ours.read("base.raw") == stage.disk)
        try stage.run("qemu-img rebase -t none -T none -u -f qcow2 -F raw -b base.raw top.qcow2")
        try stage.run("qemu-img rebase -t none -T none -f qcow2 -F qcow2 -b mid.qcow2 top.qcow2")
        let map = try stage.run("qemu-img map --output json top.qcow2").outputBytes
        let runs = try #require(try JSONSerialization.jsonObject(with: Data(map)) as? [[String: Any]])
        for key in ["start", "length", "depth", "zero", "data"] {
            #expect(runs.allSatisfy { $0[key] != nil })
        }
    }

    @Test func compare() throws {
        try stage.run("qemu-img convert -f raw -O qcow2 src.raw a.qcow2")
        let same = try stage.run("qemu-img compare -p -f raw -F qcow2 src.raw a.qcow2")
        #expect(same.output.contains("Images are identical."))
        // ovirt-imageio: 1 differs, 2 and more is an error.
        try stage.run("cp a.qcow2 b.qcow2; qemu-io -f qcow2 -c 'write -P 9 70000 1' b.qcow2")
        let differ = try stage.run("qemu-img compare -f qcow2 -F qcow2 a.qcow2 b.qcow2", 1)
        #expect(differ.output.contains("Content mismatch at offset 69632!"))
        try stage.run("qemu-img compare -f qcow2 src.raw a.qcow2", 2)
    }

    @Test func bitmaps() throws {
        // vdsm looks for the command in the help.
        let help = try stage.ours.shell("qemu-img --help", linked: true).output
        #expect(help.contains(/(?m)^\s+bitmap (.+) filename bitmap/))
        for name in ["base.qcow2", "top.qcow2"] { try stage.run("qemu-img create -q -f qcow2 \(name) 1M") }
        try stage.run("qemu-img bitmap --add --enable $PWD/base.qcow2 one -g 65536")
        try stage.run("qemu-img bitmap --add --disable $PWD/top.qcow2 two")
        try stage.run("qemu-img bitmap --merge one -F qcow2 -b $PWD/base.qcow2 $PWD/top.qcow2 two")
        let line = "qemu-img info --output json base.qcow2"
        let specific = try stage.json(line, same: ["format-specific"])["format-specific"] as? [String: Any]
        let list = (specific?["data"] as? [String: Any])?["bitmaps"] as? [[String: Any]]
        #expect(list?.first?["name"] as? String == "one" && list?.first?["granularity"] as? Int == 65536)
        #expect(list?.first?["flags"] as? [String] == ["auto"])
        try stage.run("qemu-img bitmap --remove $PWD/top.qcow2 two")
    }
}
