import BlockCore

/// The findings of a survey: all are counted, up to a limit are kept. A value.
struct Findings<Finding: Sendable>: Sendable {
    /// The largest number of findings that are kept.
    let limit: Int
    private(set) var kept: [Finding] = []
    /// The number of all findings, kept or not.
    private(set) var count = 0
    /// Inconsistencies that harm data or could.
    var corruptions = 0
    /// Space without a reference, in the format's units.
    var leaks = 0
    /// Parts that could not be read.
    var checkErrors = 0

    init(keeping limit: Int = 4096) { self.limit = limit }

    var isEmpty: Bool { count == 0 }

    /// Notes a finding that is neither a corruption nor a leak.
    mutating func note(_ finding: @autoclosure () -> Finding) {
        count += 1
        if kept.count < limit { kept.append(finding()) }
    }

    /// Notes a corruption.
    mutating func corruption(_ finding: @autoclosure () -> Finding) {
        corruptions += 1
        note(finding())
    }

    /// Sorts the kept findings.
    mutating func sort(by isBefore: (Finding, Finding) -> Bool) { kept.sort(by: isBefore) }

    /// Notes one unit without a reference.
    mutating func leak(_ finding: @autoclosure () -> Finding) {
        leaks += 1
        note(finding())
    }
}

/// Limits the lines of a report: a damaged image can produce very many. The last line states that there are
/// more.
struct BoundedReport {
    /// The largest number of lines; one more line states that others were left out.
    static let mostLines = 99_999
    private var count = 0

    /// Reports one line, unless the limit is reached.
    mutating func report(_ line: @autoclosure () -> String, to output: (String) -> Void) {
        count += 1
        if count <= Self.mostLines { output(line()) }
        if count == Self.mostLines + 1 { output("More is wrong than is reported here") }
    }

    /// Reports the kept findings, one line each.
    mutating func report<Finding>(
        _ findings: Findings<Finding>, to output: (String) -> Void, line: (Finding) -> String = { "\($0)" }
    ) {
        for finding in findings.kept { report(line(finding), to: output) }
        if findings.count > findings.kept.count { report("", to: output) }
    }
}
