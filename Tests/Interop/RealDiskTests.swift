import BlockTestSupport
import Foundation
import Testing

/// A file system of at least 500 MB of real files, through conversions, snapshots, rebase, commit and stream.
@Suite(.enabled(if: Peer.isExpected)) struct RealDiskTests {
    private static let script = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Fixtures/interop/real-disk.sh")

    @Test(.timeLimit(.minutes(15)))
    func everyByteArrives() throws {
        let fixture = try CommandFixture()
        let outcome = try fixture.run(Self.script, [CommandFixture.platter.path, fixture.folder.path])
        try #require(outcome.status == 0, "\(outcome.text)")
        #expect(outcome.output.hasSuffix("identical\n"))
    }
}
