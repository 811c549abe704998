import BlockCore

/// A check of one image: survey, plan, apply, survey again.
///
/// A survey is a value: what the tables say, and what is wrong with that. A plan follows from it, and from
/// what the user allows; it is a list of steps in a fixed order, each done at most once. A step changes the
/// image and replaces the survey by one of what is left. So a check that repairs nothing is one survey.
protocol Surveying {
    associatedtype Survey
    associatedtype Plan: RepairPlan where Plan.Survey == Survey

    /// Looks through the whole image, and changes nothing.
    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> Survey

    /// What to do about it.
    mutating func plan(for survey: Survey, _ mode: RepairMode) -> Plan

    /// Tells what the survey found, with the words for what becomes of it.
    mutating func tell(_ survey: Survey, _ plan: Plan, _ report: (String) -> Void)

    /// Does one step, and surveys what is left.
    mutating func apply(
        _ step: Plan.Step, of plan: Plan, to survey: inout Survey, _ report: (String) -> Void
    ) throws(BlockError)

    /// The counts of the last survey, with those of what was repaired.
    func result(of survey: Survey, _ plan: Plan) -> CheckResult
}

/// What a repair does about a survey: which of its steps, in the order in which they are declared.
protocol RepairPlan {
    associatedtype Survey
    associatedtype Step: CaseIterable

    /// Whether a step is to be done, now that those before it are.
    ///
    /// - Parameter survey: of what these have left.
    func includes(_ step: Step, after survey: Survey) -> Bool
}

extension Surveying {
    /// Checks the image, and repairs what `mode` allows.
    ///
    /// - Parameter report: gets one line for each finding, and for each loss.
    mutating func check(_ mode: RepairMode, _ report: (String) -> Void) throws(BlockError) -> CheckResult {
        var survey = try survey(report)
        let plan = plan(for: survey, mode)
        tell(survey, plan, report)
        for step in Plan.Step.allCases where plan.includes(step, after: survey) {
            try apply(step, of: plan, to: &survey, report)
        }
        return result(of: survey, plan)
    }
}
