import BlockTestSupport
import Foundation
import Testing

/// Images made by other vendors' tools, with digests of what QEMU 10.2 reads from them.
@Suite struct SampleTests {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/samples")

    /// Name, format, size and digest.
    static let samples: [[String]] = {
        let text = (try? String(contentsOf: folder.appending(path: "EXPECTED.txt"), encoding: .utf8)) ?? ""
        return text.split(separator: "\n").filter { !$0.hasPrefix("#") }
            .map { $0.split(separator: " ").map(String.init) }
    }()

    @Test func thereAreSome() { #expect(Self.samples.count > 1 && Self.samples.allSatisfy { $0.count == 4 }) }

    @Test(.timeLimit(.minutes(2)), arguments: samples) func hasTheExpectedBytes(_ sample: [String]) throws {
        let fixture = try CommandFixture()
        let outcome = try fixture.shell(
            """
            set -e
            bzcat \(Self.folder.path)/\(sample[0]).bz2 > \(sample[0])
            platter info \(sample[0]) | sed -n 's/^file format: //p'
            platter convert -O raw \(sample[0]) out.raw
            stat -c %s out.raw
            python3 \(Self.folder.path)/digest.py out.raw
            """, linked: true)
        #expect(outcome.output == sample[1...].joined(separator: "\n") + "\n", "\(outcome.text)")
    }
}
