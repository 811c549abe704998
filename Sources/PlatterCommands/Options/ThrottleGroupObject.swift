import BlockCore

/// `--object throttle-group,id=ID,limits.bps-total=N,...`: limits that the throttle filters of that group
/// share. The properties `x-bps-total`, ... are the same limits by older names.
enum ThrottleGroupObject {
    static let name = "throttle-group"

    /// - Throws: `invalidArgument`.
    static func make(
        _ id: String, _ definition: inout CommandObjects.Definition
    ) throws(BlockError) -> ThrottleGroup {
        let form: IOLimits.NumberForm = definition.isJSON ? .jsonNumber : .integer
        // The older names allow no sign; the others find a negative number out of range.
        for key in definition.options.keys where key.hasPrefix("x-") {
            if definition.options[key]?.hasPrefix("-") == true, Int(definition.options[key] ?? "") != nil {
                throw BlockError(.invalidArgument, "Property values cannot be negative")
            }
        }
        var limits = IOLimits()
        try limits.take(from: &definition.options, prefix: "x-", as: form)
        try limits.take(from: &definition.options, prefix: "limits.", as: form)
        if let unknown = definition.options.keys.first {
            throw BlockError(.invalidArgument, "Parameter '\(unknown)' is unexpected")
        }
        return try ThrottleGroup(name: id, limits: limits)
    }
}
