import BlockTestSupport
import Foundation
import Testing

/// How Proxmox VE calls qemu-img: proxmox/pve-storage src/PVE/Storage/Plugin.pm and proxmox/qemu-server
/// src/PVE/QemuServer/QemuImage.pm.
@Suite struct ProxmoxIdiomTests {
    let stage: ClientStage

    init() throws { stage = try ClientStage() }

    // alloc_image, clone_image, volume_resize.
    @Test func volumes() throws {
        try stage.run("mkdir 100 101")
        try stage.run(
            "qemu-img create -o preallocation=metadata -f qcow2 $PWD/100/base-100-disk-0.qcow2 1024K")
        try stage.run("qemu-img create -o preallocation=off -f raw $PWD/100/vm-100-disk-1.raw 1024K")
        try stage.run(
            "cd 101 && qemu-img create -b ../100/base-100-disk-0.qcow2 -F qcow2 -f qcow2 "
                + "$OLDPWD/101/vm-101-disk-0.qcow2")
        try stage.run("qemu-img resize -f qcow2 101/vm-101-disk-0.qcow2 2097152")
        // file_size_info: the format comes after the name.
        let info = try stage.json(
            "qemu-img info --output=json 101/vm-101-disk-0.qcow2 -f qcow2",
            same: ["virtual-size", "format", "backing-filename"])
        #expect(info["virtual-size"] as? Int == 2_097_152 && info["actual-size"] is Int)
        #expect(info["backing-filename"] as? String == "../100/base-100-disk-0.qcow2")
    }

    // list_images: another format is told by the end of the message.
    @Test func otherFormat() throws {
        let wrong = try stage.run("qemu-img info --output=json src.raw -f qcow2", 1)
        #expect(wrong.output.isEmpty)
        #expect(wrong.error.contains(/Image is not in \S+ format\n$/))
    }

    // file_size_info with $untrusted: what names further files is refused.
    @Test func untrusted() throws {
        try stage.run("qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on x.qcow2 1M")
        let data = try stage.json("qemu-img info --output=json x.qcow2", same: ["format-specific"])
        let specific = data["format-specific"] as? [String: Any]
        #expect(specific?["type"] as? String == "qcow2")
        #expect((specific?["data"] as? [String: Any])?["data-file"] as? String == "d.raw")
        for (subformat, files) in [("monolithicSparse", 1), ("monolithicFlat", 2)] {
            try stage.run("qemu-img create -q -f vmdk -o subformat=\(subformat) \(subformat).vmdk 1M")
            let info = try stage.json("qemu-img info --output=json \(subformat).vmdk")
            let details = (info["format-specific"] as? [String: Any])?["data"] as? [String: Any]
            #expect((details?["extents"] as? [Any])?.count == 1)
            #expect((info["children"] as? [Any])?.count == files)
        }
    }

    // volume_snapshot and its like; QemuImage.pm: convert into a volume that is there, progress by lines.
    @Test func snapshots() throws {
        try stage.run("qemu-img convert -f raw -O qcow2 src.raw vm.qcow2")
        try stage.run("qemu-img snapshot -c before vm.qcow2")
        try stage.run("qemu-io -f qcow2 -c 'write -P 1 0 1M' vm.qcow2")
        for target in ["out.raw", "limited.raw"] { try stage.run("qemu-img create -q -f raw \(target) 1M") }
        let copy = try stage.run(
            "qemu-img convert -p -n -l snapshot.name=before -T none -r 1000000K -f qcow2 -O raw "
                + "vm.qcow2 out.raw"
        )
        #expect(copy.output.firstMatch(of: /\((\S+)\/100\%\)/)?.1 == "0.00")
        #expect(try stage.ours.read("out.raw") == stage.disk)
        try stage.run("qemu-img snapshot -a before vm.qcow2")
        try stage.run("qemu-img snapshot -d before vm.qcow2")
        try stage.expectSource("vm.qcow2", "qcow2")
    }
}
