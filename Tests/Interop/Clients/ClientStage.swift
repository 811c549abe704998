import BlockTestSupport
import Foundation
import Testing

/// Runs the command lines of programs that call qemu-img: with ours under that name, and with QEMU's own in a
/// folder beside it where it is installed.
struct ClientStage {
    static let sizeBytes = 1 << 20

    let ours: CommandFixture
    let theirs: CommandFixture?
    /// The bytes of `src.raw`.
    let source = Pattern.bytes(stamp: 5, at: 0, count: sizeBytes / 2)

    init() throws {
        ours = try CommandFixture()
        theirs = Peer.isExpected ? try CommandFixture() : nil
        for fixture in [ours, theirs].compactMap({ $0 }) {
            try fixture.write("src.raw", source + [UInt8](repeating: 0, count: Self.sizeBytes - source.count))
        }
    }

    /// What `src.raw` holds.
    var disk: [UInt8] { source + [UInt8](repeating: 0, count: Self.sizeBytes - source.count) }

    /// Runs a line by both; the statuses must be `status`.
    ///
    /// - Parameter byOursAlone: for LUKS, where QEMU times itself and fails on a busy machine.
    @discardableResult
    func run(
        _ line: String, _ status: Int32 = 0, byOursAlone: Bool = false,
        at place: SourceLocation = #_sourceLocation
    ) throws -> CommandOutcome {
        let mine = try ours.shell(line, linked: true)
        #expect(mine.status == status, "\(line): \(mine.text)", sourceLocation: place)
        if let theirs, !byOursAlone {
            let other = try theirs.shell(line)
            #expect(mine.status == other.status, "\(line): \(other.text)", sourceLocation: place)
        }
        return mine
    }

    /// Runs a line that prints JSON by both. These fields must be the same, also where they are not there.
    func json(
        _ line: String, same keys: [String] = [], at place: SourceLocation = #_sourceLocation
    ) throws -> [String: Any] {
        let mine = try Self.object(try ours.shell(line, linked: true))
        if let theirs {
            let other = try Self.object(try theirs.shell(line))
            for key in keys {
                let (one, two) = (try Self.text(mine[key]), try Self.text(other[key]))
                #expect(one == two, "\(key) of \(line)", sourceLocation: place)
            }
        }
        return mine
    }

    private static func text(_ value: Any?) throws -> String? {
        guard let value else { return nil }
        let bytes = try JSONSerialization.data(withJSONObject: [value], options: .sortedKeys)
        return String(decoding: bytes, as: UTF8.self)
    }

    static func object(_ outcome: CommandOutcome) throws -> [String: Any] {
        let value = try JSONSerialization.jsonObject(with: Data(outcome.outputBytes))
        return try #require(value as? [String: Any], "\(outcome.text)")
    }

    /// The image has the bytes of `src.raw`, by our own reader and by QEMU's of our file.
    func expectSource(
        _ name: String, _ format: String, at place: SourceLocation = #_sourceLocation
    ) throws {
        let copy = try ours.platter("convert", "-f", format, "-O", "raw", name, "copy.raw")
        #expect(copy.status == 0, "\(copy.text)", sourceLocation: place)
        #expect(try ours.read("copy.raw") == disk, sourceLocation: place)
        if theirs != nil {
            let verdict = try ours.tool("qemu-img", "compare", "-f", "raw", "-F", format, "src.raw", name)
            #expect(verdict.text == "Images are identical.\n", sourceLocation: place)
        }
    }
}
