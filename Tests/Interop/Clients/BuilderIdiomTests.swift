import BlockTestSupport
import Foundation
import Testing

/// How programs that build images, and those that run them in containers, call qemu-img.
@Suite struct BuilderIdiomTests {
    let stage: ClientStage

    init() throws { stage = try ClientStage() }

    // kubevirt/containerized-data-importer pkg/image/qemu.go: options after the operands, progress by a
    // pattern, limits of 1 GiB and 30 s.
    @Test func importer() throws {
        try stage.run("qemu-img convert -O qcow2 src.raw in.qcow2")
        let copy = try stage.run(
            "qemu-img convert -t none -p -O raw in.qcow2 out.raw -o preallocation=falloc")
        #expect(copy.output.contains(/\((\d?\d\.\d\d)\/100%\)/))
        #expect(try stage.ours.read("out.raw") == stage.disk)
        try stage.run("qemu-img create -f raw blank.raw 1048576 -o preallocation=falloc")
        try stage.run("qemu-img resize -f raw blank.raw 2097152")
        #expect(try stage.ours.read("blank.raw").count == 2_097_152)
        let limits = "ulimit -v 1048576 -t 30; "
        for name in ["in.qcow2", #"'json: {"file.driver": "file", "file.filename": "in.qcow2"}'"#] {
            let info = try stage.json(
                limits + "qemu-img info --output=json \(name)",
                same: ["format", "backing-filename", "virtual-size", "filename"])
            #expect(info["format"] as? String == "qcow2" && info["actual-size"] is Int)
        }
    }

    // lxc/incus internal/server/storage/drivers/utils_qcow2.go: sizes end in b.
    @Test func incus() throws {
        try stage.run("qemu-img create -f qcow2 root.img 524288b")
        try stage.run("qemu-img resize root.img 1048576b")
        try stage.run("qemu-img create -f qcow2 -b root.img -F qcow2 top.img")
        try stage.run("qemu-img convert -n -O qcow2 src.raw top.img")
        let list = try stage.run("qemu-img info --backing-chain --output=json top.img").outputBytes
        let chain = try #require(try JSONSerialization.jsonObject(with: Data(list)) as? [[String: Any]])
        #expect(chain.map { $0["backing-filename"] as? String } == ["root.img", nil])
        try stage.run("qemu-img commit -f qcow2 top.img")
        try stage.expectSource("root.img", "qcow2")
        try stage.run("qemu-img rebase -u -b root.img -F qcow2 top.img")
    }

    // hashicorp/packer-plugin-qemu builder/qemu/step_create_disk.go, step_convert_disk.go: it tries again
    // where the message is that of a lock.
    @Test func packer() throws {
        try stage.run("qemu-img convert -O qcow2 src.raw iso.qcow2")
        try stage.run("qemu-img create -f qcow2 -b $PWD/iso.qcow2 -F qcow2 disk 2M")
        try stage.run("qemu-img convert -c -O qcow2 disk disk.convert")
        // The prompt comes once the image is open.
        let used =
            "rm -f in out; mkfifo in out; qemu-io iso.qcow2 <in >out & exec 8>in 9<out; read -rd '>' -u9; "
        let busy = try stage.run(
            used + "qemu-img convert -c -O qcow2 iso.qcow2 busy; status=$?; exec 8>&-; wait; exit $status", 1)
        #expect(busy.error.contains(#"Failed to get shared "write" lock"#), "\(busy.text)")
    }

    // OSInside/kiwi kiwi/storage/subformat/qcow2.py, vmdk.py, vhd.py, vhdfixed.py, vdi.py.
    @Test func kiwi() throws {
        for (line, name, format) in [
            ("-c -f raw src.raw -O qcow2 -o cluster_size=65536", "k.qcow2", "qcow2"),
            ("-f raw -O vmdk src.raw -o adapter_type=lsilogic,subformat=streamOptimized", "k.vmdk", "vmdk"),
            ("-f raw -O vpc src.raw", "k.vhd", "vpc"),
            ("-f raw -O vpc src.raw -o force_size,subformat=fixed", "fixed.vhd", "vpc"),
            ("-f raw -O vdi src.raw", "k.vdi", "vdi"), ("-f raw -O vhdx src.raw", "k.vhdx", "vhdx"),
        ] {
            try stage.run("qemu-img convert \(line) \(name)")
            let info = try stage.json(
                "qemu-img info --output=json -f \(format) \(name)", same: ["format", "virtual-size"])
            #expect(info["format"] as? String == format)
            let copy = try stage.ours.platter("convert", "-O", "raw", name, "copy.raw")
            #expect(copy.status == 0)
            #expect(try stage.ours.read("copy.raw").starts(with: stage.disk))
        }
        let vpc = try stage.run("qemu-img convert -c -f raw src.raw -O vpc refused.vhd", 1)
        #expect(vpc.error.contains("Compression not supported for this file format"))
    }

    // vagrant-libvirt/vagrant-libvirt lib/vagrant-libvirt/action/package_domain.rb: an overlay is made whole.
    @Test func vagrant() throws {
        try stage.run("qemu-img create -q -f qcow2 -b src.raw -F raw box.img")
        try stage.run(#"qemu-img rebase -p -b "" box.img"#)
        let info = try stage.json(
            "qemu-img info --output=json box.img", same: ["virtual-size", "backing-filename"])
        #expect(info["virtual-size"] as? Int == ClientStage.sizeBytes && info["backing-filename"] == nil)
        try stage.expectSource("box.img", "qcow2")
    }

    // GNS3/gns3-server gns3server/compute/qemu/qemu_vm.py and utils/qcow2.py: statuses of check, linked
    // clones.
    @Test func gns3() throws {
        try stage.run("qemu-img convert -O qcow2 src.raw base.qcow2")
        try stage.run("qemu-img check base.qcow2")
        try stage.run("qemu-img create -o backing_file=$PWD/base.qcow2 -F qcow2 -f qcow2 clone.qcow2")
        try stage.run("qemu-img rebase -u -F qcow2 -b $PWD/base.qcow2 clone.qcow2")
        try stage.expectSource("clone.qcow2", "qcow2")
        // Corrupt is 2, repaired 0: the first entry lacks the flag that its cluster is its own.
        try stage.run("printf '\\0' | dd of=base.qcow2 bs=1 seek=262144 conv=notrunc 2>&1")
        try stage.run("qemu-img check base.qcow2", 2)
        try stage.run("qemu-img check -r all base.qcow2")
        try stage.run("qemu-img check base.qcow2")
    }
}
