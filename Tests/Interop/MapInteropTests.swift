import BlockTestSupport
import Foundation
import Testing

/// `map` of images with extended L2 entries, whose subclusters have a place before they have data.
@Suite(.enabled(if: Peer.isExpected)) struct MapInteropTests {
    /// Options of the image, and whether it has a backing file of half its size.
    static let images: [(options: String, isBacked: Bool)] = [
        ("preallocation=metadata", false), ("preallocation=metadata", true), ("preallocation=off", true),
        ("data_file=disk.data", false),
    ]

    @Test("both tell the same of places without data", arguments: images, ["platter", "qemu-img"])
    func places(_ image: (options: String, isBacked: Bool), _ maker: String) throws {
        let fixture = try CommandFixture()
        try fixture.write("base.raw", [UInt8](repeating: 7, count: 65536))
        let below = image.isBacked ? ["-b", "base.raw", "-F", "raw"] : []
        let create = ["create", "-q", "-f", "qcow2"]
        let options = ["-o", "extended_l2=on,cluster_size=16k,\(image.options)"]
        try run(fixture, maker, create + options + below + ["disk.qcow2", "128k"])
        for commands in [[], ["write 512 1k", "write -z 4k 1k", "write 40k 20k", "discard 100k 1k"]] {
            if !commands.isEmpty {
                let work = commands.flatMap { ["-c", $0] }
                try run(fixture, "qemu-io", ["-f", "qcow2"] + work + ["disk.qcow2"])
            }
            #expect(try map(fixture, "platter", "disk.qcow2") == map(fixture, "qemu-img", "disk.qcow2"))
        }
        try run(fixture, maker, create + ["-F", "qcow2", "-b", "disk.qcow2", "top", "160k"])
        #expect(try map(fixture, "platter", "top") == map(fixture, "qemu-img", "top"))
    }

    /// Units are shown whole, though the file may have holes for them; of vpc all is present.
    @Test(arguments: ["vpc", "parallels", "vdi", "vmdk", "qed", "qcow"], ["platter", "qemu-img"])
    func units(_ format: String, _ maker: String) throws {
        let fixture = try CommandFixture()
        try run(fixture, maker, ["create", "-q", "-f", format, "disk", "16M"])
        let commands = ["write 3M 64k", "write 3300k 128k", "write 9M 3M", "write -z 5M 64k"]
        let work = commands.flatMap { ["-c", $0] }
        if maker == "platter" {
            try run(fixture, "platter", ["io", "-f", format] + work + ["disk"])
        } else {
            try run(fixture, "qemu-io", ["-f", format] + work + ["disk"])
        }
        let ours = try map(fixture, "platter", "disk", format)
        #expect(try ours == map(fixture, "qemu-img", "disk", format))
        #expect(ours.contains("\"present\": false") == !["vpc", "vdi"].contains(format))
        let human = try fixture.shell(
            "platter map -f \(format) disk > a; /usr/bin/qemu-img map -f \(format) disk | cmp - a",
            linked: true)
        #expect(human.status == 0, "\(human.text)")
    }

    private func run(_ fixture: CommandFixture, _ program: String, _ arguments: [String]) throws {
        let url = program == "platter" ? CommandFixture.platter : URL(filePath: "/usr/bin/\(program)")
        let outcome = try fixture.run(url, arguments)
        guard outcome.status == 0 else { throw Mismatch("\(program) \(arguments): \(outcome.text)") }
    }

    /// The JSON, without the field that QEMU 7.2 has not got.
    private func map(
        _ fixture: CommandFixture, _ program: String, _ name: String, _ format: String = "qcow2"
    ) throws -> String {
        let url = program == "platter" ? CommandFixture.platter : URL(filePath: "/usr/bin/\(program)")
        let outcome = try fixture.run(url, ["map", "--output=json", "-f", format, name])
        guard outcome.status == 0 else { throw Mismatch("\(program): \(outcome.text)") }
        return outcome.output.replacing(", \"compressed\": false", with: "")
    }
}
