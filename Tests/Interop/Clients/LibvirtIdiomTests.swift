import BlockTestSupport
import Foundation
import Testing

/// How libvirt and libguestfs call qemu-img.
@Suite struct LibvirtIdiomTests {
    let stage: ClientStage

    init() throws {
        stage = try ClientStage()
        try stage.run("printf letmein > key")
    }

    // libvirt/libvirt tests/storagevolxml2argvdata/qcow2-lazy.argv, -nocow-compat.argv, -1.1.argv.
    @Test func volumes() throws {
        try stage.run(
            "qemu-img create -f qcow2 -b src.raw -o backing_fmt=raw,compat=1.1,lazy_refcounts "
                + "lazy.img 5242880K"
        )
        try stage.run(
            "qemu-img create -f qcow2 -b /dev/null -o backing_fmt=raw,nocow=on,compat=0.10 cow.img 5120K")
        let info = try stage.json(
            "qemu-img info --output=json lazy.img",
            same: ["virtual-size", "backing-filename", "backing-filename-format", "format-specific"])
        #expect(info["virtual-size"] as? Int == 5 << 30)
        // storage_backend.c of earlier releases: is there "compat"?
        #expect(try stage.run("qemu-img create -o ? -f qcow2 /dev/null").output.contains("compat"))
    }

    // libvirt/libvirt tests/storagevolxml2argvdata/qcow2-nobacking-convert-prealloc-compat.argv.
    @Test func convertVolume() throws {
        try stage.run(
            "qemu-img convert -f raw -O qcow2 -o preallocation=metadata,compat=0.10 src.raw out.img")
        try stage.expectSource("out.img", "qcow2")
    }

    // libvirt/libvirt tests/storagevolxml2argvdata/luks.argv, luks-convert-encrypt2fileqcow2.argv,
    // qcow2-luks-convert-encrypt.argv.
    @Test func encryptedVolumes() throws {
        let id = "LuksDemo.img_encrypt0"
        let secret = "--object secret,id=\(id),file=key"
        let convert = "qemu-img convert --image-opts -n --target-image-opts"
        let luks = "driver=luks,file.filename=l.img,key-secret=\(id)"
        let qcow2 = "driver=qcow2,file.filename=q.img,encrypt.key-secret=b"
        for line in [
            "qemu-img create -f luks \(secret) -o key-secret=\(id),iter-time=10 l.img 1024K",
            "\(convert) \(secret) driver=raw,file.filename=src.raw \(luks)",
            "qemu-img create -f qcow2 --object secret,id=b,file=key -o encrypt.format=luks,"
                + "encrypt.key-secret=b,encrypt.iter-time=10,compat=0.10 q.img 1024K",
            "\(convert) --object secret,id=b,file=key \(secret) \(luks) \(qcow2)",
            "qemu-img create -f qcow2 -o compat=0.10 sparse.img 1024K",
            "\(convert) --object secret,id=b,file=key \(qcow2) driver=qcow2,file.filename=sparse.img",
        ] { try stage.run(line, byOursAlone: true) }
        try stage.expectSource("sparse.img", "qcow2")
        let info = try ClientStage.object(
            try stage.ours.shell("qemu-img info --output=json q.img", linked: true))
        #expect(info["encrypted"] as? Bool == true)
        guard stage.theirs != nil else { return }
        let verdict = try stage.ours.shell(
            "/usr/bin/qemu-img compare \(secret) --image-opts driver=raw,file.filename=src.raw \(luks)")
        #expect(verdict.text == "Images are identical.\n")
    }

    // libguestfs/libguestfs lib/info.c: the limits, whether -U is there, a name after ./ and three fields.
    @Test func guestfsInfo() throws {
        let probe = #"qemu-img --help | grep -sqE -- '\binfo\b.*-U\b'"#
        #expect(try stage.ours.shell(probe, linked: true).status == 0)
        try stage.run("qemu-img create -q -f qcow2 -b src.raw -F raw ./a:b")
        let info = try stage.json(
            "ulimit -v 1048576 -t 10; qemu-img info -U --output json ./a:b",
            same: ["format", "virtual-size", "backing-filename", "filename", "full-backing-filename"])
        #expect(
            info["filename"] as? String == "./a:b" && info["full-backing-filename"] as? String == "./src.raw")
    }

    // libguestfs/libguestfs lib/create.c: disk_create_qcow2, commas doubled.
    @Test func guestfsCreate() throws {
        try stage.run("cp src.raw 'a,b.raw'")
        try stage.run(
            "qemu-img create -f qcow2 "
                + "-o "
                + "backing_file=a,,b.raw,backing_fmt=raw,preallocation=off,"
                + "compat=1.1,cluster_size=4096 ./o.img"
        )
        let info = try stage.json(
            "qemu-img info --output json ./o.img", same: ["cluster-size", "virtual-size"])
        #expect(info["backing-filename"] as? String == "a,b.raw")
        try stage.expectSource("o.img", "qcow2")
    }
}
