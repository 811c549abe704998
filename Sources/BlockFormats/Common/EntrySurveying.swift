import BlockCore

/// A survey whose findings are entries of tables.
protocol EntrySurvey {
    associatedtype Finding: EntryFinding
    var findings: Findings<Finding> { get }
}

protocol EntryFinding: Sendable {
    /// Whether the repair drops the data that the entry referred to.
    var isLoss: Bool { get }
    /// The finding as a line of a report, without its first word.
    var message: String { get }
}

/// A survey of an image with the counts of the steps so far.
struct EntryCheck<Entries: EntrySurvey> {
    var entries: Entries
    /// Whether entries without valid data were dropped.
    var hasLosses = false
    var result = CheckResult()
}

/// The steps of a check, in this order.
struct EntryRepairPlan<Entries: EntrySurvey>: RepairPlan {
    enum Step: CaseIterable {
        /// Drops entries without data, and gives clusters with a shared place one of their own.
        case entries
        /// Counts clusters without a reference, and gives their space back.
        case leaks
    }

    let mode: RepairMode

    func includes(_ step: Step, after survey: EntryCheck<Entries>) -> Bool {
        step == .leaks || mode == .all && !survey.entries.findings.isEmpty
    }
}

/// A check whose findings depend on the repairs before them. So its repair is a second survey, which repairs
/// each finding when it meets it; a third one surveys the result.
protocol EntrySurveying: AnyObject, Surveying
where Survey == EntryCheck<Entries>, Plan == EntryRepairPlan<Entries> {
    associatedtype Entries: EntrySurvey
    /// Repairs a finding during a survey; entries that come later are read after the repair.
    typealias Repairing = (inout Entries, Entries.Finding) throws(BlockError) -> Void

    var file: BlockNode { get }
    /// Whether the clusters of the file are few enough to be counted.
    var isCountable: Bool { get }

    func surveyEntries(_ repair: Repairing) throws(BlockError) -> Entries
    /// - Returns: `false` when the budget left the finding as it is.
    func repair(
        _ finding: Entries.Finding, _ entries: inout Entries, _ budget: inout RepairBudget
    ) throws(BlockError) -> Bool
    /// Makes all changes durable.
    func commit() throws(BlockError)
    /// The counts of an image, without findings and leaks.
    func counts(of entries: Entries) -> CheckResult
    /// Counts leaks, and repairs them where the mode allows it and no loss may lie in them.
    func checkLeaks(
        _ survey: inout Survey, _ mode: RepairMode, _ report: (String) -> Void
    ) throws(BlockError)
}

extension EntrySurveying {
    func survey(_ report: (String) -> Void) throws(BlockError) -> Survey {
        let entries = try surveyEntries { (_, _) in }
        var survey = EntryCheck(entries: entries, result: counts(of: entries))
        survey.result.corruptions = entries.findings.count
        return survey
    }

    func plan(for survey: Survey, _ mode: RepairMode) -> Plan { EntryRepairPlan(mode: mode) }

    /// A repair reports each finding itself.
    func report(_ survey: Survey, _ plan: Plan, to output: (String) -> Void) {
        if plan.mode == .all { return }
        var lines = BoundedReport()
        lines.report(survey.entries.findings, to: output) { "ERROR \($0.message)" }
    }

    func apply(
        _ step: Plan.Step, of plan: Plan, to survey: inout Survey, _ report: (String) -> Void
    ) throws(BlockError) {
        guard step == .entries else { return try checkLeaks(&survey, plan.mode, report) }
        var budget = RepairBudget(for: file, .clusters)
        var lines = BoundedReport()
        let pass = try surveyEntries { (entries, finding) throws(BlockError) in
            let isRepaired = try repair(finding, &entries, &budget)
            if isRepaired, finding.isLoss { survey.hasLosses = true }
            lines.report("\(isRepaired ? "Repairing" : "ERROR") \(finding.message)", to: report)
        }
        if budget.wasExceeded { report(budget.message) }
        try commit()
        survey.entries = try surveyEntries { (_, _) in }
        survey.result.corruptions = survey.entries.findings.count
        survey.result.corruptionsFixed = max(0, pass.findings.count - survey.entries.findings.count)
    }

    func result(of survey: Survey, _ plan: Plan) -> CheckResult { survey.result }

    /// Checks the image, if its clusters can be counted.
    func checkEntries(_ mode: RepairMode, _ report: (String) -> Void) throws(BlockError) -> CheckResult {
        guard isCountable else {
            report("ERROR the file is too large for its clusters to be counted")
            var result = CheckResult()
            result.checkErrors = 1
            return result
        }
        var tables = self
        return try tables.check(mode, report)
    }
}
