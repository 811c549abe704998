import BlockTestSupport
import Foundation
import Testing

/// How OpenStack's services call qemu-img and what they read.
@Suite struct OpenStackIdiomTests {
    let stage: ClientStage

    init() throws { stage = try ClientStage() }

    // openstack/nova nova/privsep/qemu.py: unprivileged_qemu_img_info, within oslo's limits of 30 s and 1
    // GiB; openstack/oslo.utils oslo_utils/imageutils/qemu.py reads the fields.
    @Test func novaInfo() throws {
        try stage.run("qemu-img convert -t none -O qcow2 -f raw -c src.raw disk.qcow2")
        try stage.expectSource("disk.qcow2", "qcow2")
        let limits = "ulimit -v 1048576 -t 30; "
        let info = try stage.json(
            limits + "env LC_ALL=C LANG=C qemu-img info disk.qcow2 --force-share --output=json -f qcow2",
            same: [
                "filename", "format", "virtual-size", "cluster-size", "backing-filename", "snapshots",
                "encrypted", "format-specific",
            ])
        #expect(info["actual-size"] is Int)
        let missing = try stage.run(
            "env LC_ALL=C LANG=C qemu-img info nothing.qcow2 --force-share --output=json", 1)
        #expect(missing.error.contains("No such file or directory"))
    }

    // openstack/nova nova/virt/libvirt/utils.py: create_cow_image.
    @Test func novaOverlay() throws {
        try stage.run("qemu-img convert -O qcow2 src.raw base")
        try stage.run(
            "qemu-img create -f qcow2 "
                + "-o backing_file=$PWD/base,backing_fmt=qcow2,cluster_size=65536,size=2097152 disk")
        let info = try stage.json("qemu-img info --output=json disk", same: ["virtual-size", "cluster-size"])
        #expect(info["backing-filename"] as? String == stage.ours.path("base"))
        #expect(info["backing-filename-format"] as? String == "qcow2")
    }

    // openstack/cinder cinder/image/image_utils.py: get_qemu_img_version, qemu_img_info of earlier
    // releases, which reads the text with TOP_LEVEL_RE and SIZE_RE.
    @Test func cinderText() throws {
        let version = try stage.run("qemu-img --version").output
        let number = try #require(version.prefixMatch(of: /qemu-img version ([0-9\.]*)/)?.1)
        #expect(
            number.split(separator: ".").compactMap { Int($0) }.lexicographicallyPrecedes([2, 10]) == false)
        try stage.run("qemu-img create -f qcow2 base.qcow2 1M && mkdir d")
        try stage.run("qemu-img create -f qcow2 -b ../base.qcow2 -F qcow2 d/top.qcow2")
        try stage.run("qemu-img snapshot -c first d/top.qcow2")
        let text = try stage.run("env LC_ALL=C qemu-img info --force-share d/top.qcow2").output
        var fields: [String: String] = [:]
        for line in text.split(separator: "\n") {
            guard let match = String(line).wholeMatch(of: /([\w\s\-]+):(.*)/) else { continue }
            let key = match.1.trimmingCharacters(in: .whitespaces).lowercased()
                .replacing(" ", with: "_").replacing("-", with: "_")
            if fields[key] == nil { fields[key] = match.2.trimmingCharacters(in: .whitespaces) }
        }
        #expect(fields["image"] == "d/top.qcow2" && fields["file_format"] == "qcow2")
        #expect(fields["virtual_size"]?.firstMatch(of: /\(\s*(\d+)\s+bytes\s*\)/)?.1 == "1048576")
        #expect(fields["cluster_size"] == "65536")
        #expect(
            fields["backing_file"]?.wholeMatch(of: /(.*?)\s*\(actual\s+path\s*:\s+(.*?)\)\s*/)?.2
                == "d/../base.qcow2")
        // The list follows its header.
        let lines = text.split(separator: "\n").map(String.init)
        let list = try #require(lines.firstIndex(of: "Snapshot list:"))
        #expect(lines[list + 1].hasPrefix("ID") && lines[list + 2].hasPrefix("1 "))
    }

    // openstack/cinder cinder/image/image_utils.py: _get_qemu_convert_cmd.
    @Test func cinderConvert() throws {
        try stage.run("qemu-img convert -O vpc -o subformat=dynamic -f raw src.raw out.vhd")
        let info = try stage.json("qemu-img info --output=json out.vhd", same: ["format", "virtual-size"])
        #expect(info["format"] as? String == "vpc")
        try stage.run("printf secret > key")
        try stage.run(
            "qemu-img convert -O luks -f raw -o cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64 "
                + "--object secret,id=luks_sec,format=raw,file=key -o key-secret=luks_sec,iter-time=10 "
                + "src.raw out.luks", byOursAlone: true)
        try stage.run(
            "qemu-img convert --object secret,id=s,file=key --image-opts -O raw "
                + "driver=luks,file.filename=out.luks,key-secret=s back.raw", byOursAlone: true)
        #expect(try stage.ours.read("back.raw") == stage.disk)
        try stage.run("qemu-img create -q -f raw volume 1M; qemu-img resize -f raw volume 1G")
    }

    // openstack/ironic-python-agent ironic_python_agent/extensions/standby.py: -S 0 writes every byte. A file
    // stands for the device.
    @Test func ironicWritesAll() throws {
        try stage.run("truncate -s 1M target && printf x | dd of=target bs=1 seek=1000000 conv=notrunc 2>&1")
        try stage.run("qemu-img convert -n -t directsync -S 0 -O raw -W src.raw target")
        #expect(try stage.ours.read("target") == stage.disk)
        let refused = try stage.run("qemu-img convert -t directsync -S 0 -O host_device -W src.raw target", 1)
        #expect(refused.error.contains("'host_device' driver requires 'target' to be either a character or"))
    }
}
