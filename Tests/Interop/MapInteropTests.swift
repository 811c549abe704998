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

    private func run(_ fixture: CommandFixture, _ program: String, _ arguments: [String]) throws {
        let url = program == "platter" ? CommandFixture.platter : URL(filePath: "/usr/bin/\(program)")
        let outcome = try fixture.run(url, arguments)
        guard outcome.status == 0 else { throw Mismatch("\(program) \(arguments): \(outcome.text)") }
    }

    /// The JSON, without the field that QEMU 7.2 has not got.
    private func map(_ fixture: CommandFixture, _ program: String, _ name: String) throws -> String {
        let url = program == "platter" ? CommandFixture.platter : URL(filePath: "/usr/bin/\(program)")
        let outcome = try fixture.run(url, ["map", "--output=json", "-f", "qcow2", name])
        guard outcome.status == 0 else { throw Mismatch("\(program): \(outcome.text)") }
        return outcome.output.replacing(", \"compressed\": false", with: "")
    }
}
