import BlockTestSupport
import Foundation
import Testing

/// How Apache CloudStack calls qemu-img: apache/cloudstack
/// plugins/hypervisors/kvm/src/main/java/org/apache/cloudstack/utils/qemu/QemuImg.java.
@Suite struct CloudStackIdiomTests {
    let stage: ClientStage

    init() throws { stage = try ClientStage() }

    // The constructor: whether zeroes need not be written is seen in the help.
    @Test func convertToZeroedTarget() throws {
        #expect(
            try stage.ours.shell("qemu-img --help", linked: true).output.contains("--target-is-zero"))
        try stage.run("qemu-img convert -O qcow2 src.raw w.qcow2; truncate -s 1M out.raw")
        try stage.run(
            "qemu-img convert -n --target-is-zero -W -S 1M -O raw -t none -U --image-opts "
                + "driver=qcow2,file.filename=w.qcow2 out.raw")
        #expect(try stage.ours.read("out.raw") == stage.disk)
    }

    // create, info (text, cut at the first colon), rebase, resize by a difference.
    @Test func overlays() throws {
        try stage.run("qemu-img convert -O qcow2 src.raw w.qcow2")
        try stage.run(
            "qemu-img create -o cluster_size=65536,preallocation=off -f qcow2 -F qcow2 -b w.qcow2 c.qcow2")
        var fields: [String: String] = [:]
        for line in try stage.run("qemu-img info -U c.qcow2").output.split(separator: "\n") {
            let halves = line.split(separator: ":", maxSplits: 1).map {
                $0.trimmingCharacters(in: .whitespaces)
            }
            if halves.count == 2 { fields[halves[0].replacing(" ", with: "_")] = halves[1] }
        }
        #expect(fields["virtual_size"]?.firstMatch(of: /^.*\(([0-9]+).*$/)?.1 == "1048576")
        #expect(fields["file_format"] == "qcow2" && fields["image"] == "c.qcow2")
        #expect(fields["backing_file"] == "w.qcow2" && fields["backing_file_format"] == "qcow2")
        #expect(fields["cluster_size"] == "65536")
        try stage.run("qemu-img rebase -u -F qcow2 -b w.qcow2 c.qcow2")
        try stage.run("qemu-img resize c.qcow2 +65536")
        #expect(try stage.json("qemu-img info --output=json c.qcow2")["virtual-size"] as? Int == 1_114_112)
    }

    // deleteSnapshot: a snapshot that is not there is known by the message.
    @Test func snapshotThatIsGone() throws {
        try stage.run("qemu-img create -q -f qcow2 c.qcow2 1M")
        try stage.run("qemu-img snapshot -c one --image-opts driver=qcow2,file.filename=c.qcow2")
        try stage.run("qemu-img snapshot -d one --image-opts driver=qcow2,file.filename=c.qcow2")
        let gone = try stage.run(
            "qemu-img snapshot -d one --image-opts driver=qcow2,file.filename=c.qcow2", 1)
        #expect(
            gone.error.contains("snapshot not found") || gone.error.contains("Can't find the snapshot"),
            "\(gone.error)")
    }
}
