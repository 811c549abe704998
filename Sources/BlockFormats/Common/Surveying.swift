import BlockCore

/// A check of one image: survey, plan, apply, survey again.
///
/// A survey is a value: the contents of the tables and their findings. A plan follows from the survey and the
/// repair mode; it is a list of steps in a fixed order, each done at most once. A step changes the image and
/// replaces the survey by a new one. So a check without a repair is one survey.
protocol Surveying {
    associatedtype Survey
    associatedtype Plan: RepairPlan where Plan.Survey == Survey

    /// Surveys the whole image without changing it.
    mutating func survey(_ report: (String) -> Void) throws(BlockError) -> Survey

    /// The plan for the findings of a survey.
    mutating func plan(for survey: Survey, _ mode: RepairMode) -> Plan

    /// Reports the findings of the survey, with the words for their repair where the plan repairs them.
    mutating func report(_ survey: Survey, _ plan: Plan, to output: (String) -> Void)

    /// Does one step, and replaces the survey by a new one.
    mutating func apply(
        _ step: Plan.Step, of plan: Plan, to survey: inout Survey, _ report: (String) -> Void
    ) throws(BlockError)

    /// The counts of the last survey, and of the repaired findings.
    func result(of survey: Survey, _ plan: Plan) -> CheckResult
}

/// The steps that a repair takes after a survey, in the order of their declaration.
protocol RepairPlan {
    associatedtype Survey
    associatedtype Step: CaseIterable

    /// Whether a step is to be done, after the steps before it.
    ///
    /// - Parameter survey: the survey after those steps.
    func includes(_ step: Step, after survey: Survey) -> Bool
}

extension Surveying {
    /// Checks the image, and repairs what `mode` allows.
    ///
    /// - Parameter report: receives one line for each finding and for each loss.
    /// - Throws: `io`, `noSpace`, and the errors of the format's survey and steps.
    mutating func check(_ mode: RepairMode, _ report: (String) -> Void) throws(BlockError) -> CheckResult {
        var survey = try survey(report)
        let plan = plan(for: survey, mode)
        self.report(survey, plan, to: report)
        for step in Plan.Step.allCases where plan.includes(step, after: survey) {
            try apply(step, of: plan, to: &survey, report)
        }
        return result(of: survey, plan)
    }
}
