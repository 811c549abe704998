import BlockCore

/// What a survey found: all of it counted, so much of it kept. A value.
struct Findings<Finding: Sendable>: Sendable {
    /// How many findings are kept.
    let limit: Int
    private(set) var kept: [Finding] = []
    /// How many there are.
    private(set) var count = 0
    /// Inconsistencies that harm data or could.
    var corruptions = 0
    /// Space that nothing refers to, in the format's units.
    var leaks = 0
    /// Parts that could not be looked at.
    var checkErrors = 0

    init(keeping limit: Int) { self.limit = limit }

    var isEmpty: Bool { count == 0 }

    /// Notes a finding that counts for nothing by itself.
    mutating func note(_ finding: @autoclosure () -> Finding) {
        count += 1
        if kept.count < limit { kept.append(finding()) }
    }

    /// Notes a corruption.
    mutating func corruption(_ finding: @autoclosure () -> Finding) {
        corruptions += 1
        note(finding())
    }

    /// Notes one unit that nothing refers to.
    mutating func leak(_ finding: @autoclosure () -> Finding) {
        leaks += 1
        note(finding())
    }
}

/// Lines for people, of which a damaged image can make very many: some are told, and that there are more.
struct BoundedReport {
    /// How many lines are told; one more says that there are others.
    static let mostLines = 99_999
    private var count = 0

    /// Tells one line, unless there were very many.
    mutating func tell(_ line: @autoclosure () -> String, _ report: (String) -> Void) {
        count += 1
        if count <= Self.mostLines { report(line()) }
        if count == Self.mostLines + 1 { report("More is wrong than is told here") }
    }

    /// Tells what was found.
    mutating func tell(_ findings: Findings<String>, _ report: (String) -> Void) {
        for line in findings.kept { tell(line, report) }
        if findings.count > findings.kept.count { tell("", report) }
    }
}
