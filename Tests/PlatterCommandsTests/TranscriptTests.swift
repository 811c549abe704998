import BlockTestSupport
import Foundation
import Testing

/// Replays a recorded session of qemu-img 10.2 through a link of that name.
@Suite struct TranscriptTests {
    /// One command of the recorded session.
    struct Entry: Sendable, CustomStringConvertible {
        var command: String
        /// All that was printed, with `[exit N]` as its last line.
        var expected: String
        var description: String { command }
    }

    static let fixture = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/commands/qemu-img-10.2.txt")

    /// Where Platter is known to answer otherwise; an entry that has come right is reported.
    static let knownDifferences: [String: String] = [:]

    @Test func replaysTheRecordedSession() throws {
        let entries = try Self.entries()
        try #require(entries.count > 100)
        let fixture = try CommandFixture()
        for entry in entries {
            let script = "( \(entry.command)\n) 2>&1; echo \"[exit $?]\""
            let outcome = try fixture.shell(script, linked: true)
            var expected = Normal.text(entry.expected, of: entry.command)
            var told = Normal.withoutExtras(Normal.text(outcome.output, of: entry.command), expected)
            if Normal.tellsSnapshots(expected) {
                (expected, told) = (Normal.withoutFileLengths(expected), Normal.withoutFileLengths(told))
            }
            if let reason = Self.knownDifferences[entry.command] {
                withKnownIssue("\(reason)") { #expect(told == expected, "$ \(entry.command)") }
            } else {
                #expect(told == expected, "$ \(entry.command)")
            }
        }
    }

    static func entries() throws -> [Entry] {
        var entries: [Entry] = []
        for line in try String(contentsOf: fixture, encoding: .utf8).components(separatedBy: "\n") {
            if line.hasPrefix("## ") { continue }
            if line.hasPrefix("$ ") {
                entries.append(Entry(command: String(line.dropFirst(2)), expected: ""))
            } else if !entries.isEmpty {
                entries[entries.count - 1].expected += line + "\n"
            }
        }
        for index in entries.indices {
            entries[index].expected = entries[index].expected.trimmingCharacters(in: .newlines) + "\n"
        }
        return entries
    }
}

/// What depends on the host, the moment or the wording of help is made equal.
enum Normal {
    /// `info` tells something of every format, where QEMU tells nothing of most; it lists the data file among
    /// the children, and what an image names as `references`. All else must be the same.
    static func withoutExtras(_ told: String, _ expected: String) -> String {
        var told = told
        if !expected.contains("\nFormat specific information:") {
            replace(&told, #"(?m)^Format specific information:\n(?: .*\n)*"#, "")
        }
        if !expected.contains("\n    \"format-specific\"") {
            replace(&told, #"(?m)^    "format-specific": \{\n(?:     .*\n)*    \},\n"#, "")
        }
        replace(&told, #"(?m)^( +)"references": \[\n(?:\1 .*\n)*\1\],\n"#, "")
        if !expected.contains("/data-file") {
            replace(&told, #"(?m)^Child node '/data-file':\n(?: .*\n)*"#, "")
        }
        if !expected.contains(#""name": "data-file""#) {
            replace(&told, #"(?m)^( +)\{\n +"name": "data-file",\n(?:\1 .*\n)*\1\},?\n"#, "")
        }
        return told
    }

    static func tellsSnapshots(_ text: String) -> Bool {
        text.contains("Snapshot list:") || text.contains("\"snapshots\": [")
    }

    /// Taking a snapshot writes tables to new places here, so the file is longer than QEMU's.
    static func withoutFileLengths(_ text: String) -> String {
        var text = text
        replace(&text, #"file length: .*"#, "file length: LENGTH")
        replace(
            &text, #""virtual-size": [0-9]+(,\n +"filename": "[^"]*",\n +"format": "file")"#,
            "\"virtual-size\": LENGTH$1")
        return text
    }

    static func text(_ text: String, of command: String) -> String {
        var text = text
        // What a file takes up depends on the host's file system.
        replace(&text, #"disk size: [0-9.]+ ([KMG]i)?B"#, "disk size: SIZE")
        replace(&text, #""actual-size": [0-9]+"#, "\"actual-size\": SIZE")
        replace(&text, #"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}"#, "DATE")
        replace(&text, #""date-(n?sec)": [0-9]+"#, "\"date-$1\": DATE")
        // Keys and identifiers are drawn anew, and iterations follow from the machine's speed.
        replace(&text, #"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"#, "UUID")
        replace(&text, #"(iters"?): [0-9]+"#, "$1: COUNT")
        // How many steps are shown depends on how much is copied at once.
        replace(&text, #"( {4}\([0-9.]+/100%\)[\r\n]*)+"#, "PROGRESS\n")
        // The options are the same, their descriptions are our own.
        if command.contains("-o help") { replace(&text, #"(?m)>\s+- .*$"#, ">") }
        return text
    }

    private static func replace(_ text: inout String, _ pattern: String, _ replacement: String) {
        text = text.replacingOccurrences(of: pattern, with: replacement, options: .regularExpression)
    }
}
