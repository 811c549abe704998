import BlockTestSupport
import Foundation
import Testing

/// What is said about limits that cannot be is what qemu-io 7.2 says.
@Suite struct ThrottleInteropTests {
    private func compare(_ objects: [String], image: String = ",throttle-group=g") throws {
        guard Peer.isExpected else { return }
        let fixture = try CommandFixture()
        try fixture.shell("truncate -s 1M a.raw")
        let file = "driver=throttle,file.driver=raw,file.file.filename=a.raw"
        // One shell for all: a process each is slow enough.
        let script = objects.map { object in
            "qemu-io --object '\(object)' -c length --image-opts '\(file)\(image)' 2>&1; echo \"== $?\""
        }.joined(separator: "\n")
        let ours = try answers(fixture, script, linked: true)
        let theirs = try answers(fixture, script, linked: false)
        try #require(ours.count == objects.count && theirs.count == objects.count)
        for (object, (our, their)) in zip(objects, zip(ours, theirs)) { #expect(our == their, "\(object)") }
    }

    private func answers(_ fixture: CommandFixture, _ script: String, linked: Bool) throws -> [String] {
        let output = try fixture.shell(script, linked: linked).output
        // Each answer is followed by a line `== STATUS`.
        return output.split(separator: "\n").reduce(into: [""]) { answers, line in
            answers[answers.count - 1] += line + "\n"
            if line.hasPrefix("== ") { answers.append("") }
        }.dropLast()
    }

    @Test func theSameRefusals() throws {
        let options = [
            "x-iops-total=1,x-iops-write=1", "x-bps-total-max=1", "x-bps-total=10,x-bps-total-max=5",
            "x-bps-total=-1", "limits.bps-total=-5", "x-bps-total=1000000000000001",
            "x-bps-total=1000000000000000", "x-bps-total-max-length=2",
            "x-bps-total=10,x-bps-total-max-length=2",
            "x-bps-total=10,x-bps-total-max=100,x-bps-total-max-length=0",
            "x-bps-total=10,x-bps-total-max=1000000000000000,x-bps-total-max-length=2", "x-iops-size=5",
            "x-iops-size=5,x-iops-total=10", "x-foo=1", "foo=1", "limits.bps-total=5M", "limits.bps-foo=1",
            "limits.iops-size=3", "x-bps-total=abc", "x-bps-total=5000000000000000000000", "x-bps-total=",
            "x-bps-total=0x10", "x-bps-total=010", "x-bps-total=+5", "limits.x-bps=1", "bps-total=1",
            "limits.bps-total-max-length=4294967296", "x-bps-total=1,limits.bps-read=5",
            "limits.bps-total=5,x-bps-total=-3",
        ].map { "throttle-group,id=g,\($0)" }
        let json = [
            #""x-bps-total":1000000"#, #""limits":{"bps-total":1000000,"iops-total-max":5}"#,
            #""limits":{"bps-total":"1000000"}"#,
        ].map { #"{"qom-type":"throttle-group","id":"g",\#($0)}"# }
        try compare(options + json + ["throttle-group", "throttle-group,id=g"])
    }

    @Test(arguments: ["", ",throttle-group=h"]) func theSameAboutGroups(_ image: String) throws {
        try compare(["throttle-group,id=g", "secret,id=h,data=x"], image: image)
    }

    @Test(arguments: 0..<2) func randomLimits(_ seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let names = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read"]
        let values = [0, 1, 5, 100, 1_000_000_000_000_000, 1_000_000_000_000_001]
        let objects = (0..<60).map { _ in
            var keys: Set<String> = []
            var object = "throttle-group,id=g"
            for _ in 0..<random.number(in: 1..<6) {
                let suffix = ["", "", "-max", "-max-length"][random.number(in: 0..<4)]
                let isSize = random.number(in: 0..<8) == 0
                let key = isSize ? "iops-size" : names[random.number(in: 0..<names.count)] + suffix
                guard keys.insert(key).inserted else { continue }
                let limit = suffix == "-max-length" && !isSize ? 4 : values.count
                object += ",limits.\(key)=\(values[random.number(in: 0..<limit)])"
            }
            return object
        }
        try compare(objects)
    }
}
