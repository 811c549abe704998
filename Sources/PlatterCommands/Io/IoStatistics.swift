import BlockCore

/// What the image's node has counted: the command `stats`.
enum IoStatistics {
    static let verb = IoVerb(
        name: "stats", arguments: "[-r]", summary: "tell what was read and written so far",
        help: [
            "-r  set all counts to zero afterwards",
            "One line for each kind of request: how many, bytes, milliseconds spent in them, and how many",
            "were merged, failed, and were refused as invalid. Zeroing counts as writing.",
        ], maximum: 1, isOwn: true, work: .image(print))

    private static func print(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let options = try call.options("r", shell.complainPlainly)
        guard options.operands.isEmpty else { throw IoFailure.usage }
        for line in lines(node.statistics) { shell.print(line) }
        if options.has("r") { node.statistics.reset() }
    }

    private static let columns = ["requests", "bytes", "ms", "merged", "failed", "invalid"]

    private static func lines(_ statistics: NodeStatistics) -> [String] {
        var lines = [line("", columns)]
        for operation in NodeStatistics.Operation.allCases {
            let counts = statistics.counts(of: operation)
            let time = HumanSize.formatted("%.3f", Double(counts.nanoseconds) / 1e6)
            let numbers = [counts.merged, counts.failed, counts.invalid].map { "\($0)" }
            lines.append(
                line("\(operation)", ["\(counts.operations)", "\(counts.bytes)", time] + numbers))
        }
        lines.append("end of the highest write: \(statistics.highestWrittenOffset)")
        if let idle = statistics.idleNanoseconds {
            lines.append("idle for \(HumanSize.formatted("%.3f", Double(idle) / 1e6)) ms")
        }
        return lines
    }

    private static func line(_ name: String, _ cells: [String]) -> String {
        let padded = cells.map { String(repeating: " ", count: max(1, 13 - $0.utf8.count)) + $0 }
        return name + String(repeating: " ", count: max(0, 7 - name.utf8.count)) + padded.joined()
    }
}
