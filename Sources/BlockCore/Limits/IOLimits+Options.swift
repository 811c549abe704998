/// Limits as options: `limits.bps-total`, `limits.bps-total-max`, `limits.bps-total-max-length`,
/// `limits.iops-size`, ...
extension IOLimits {
    /// How the numbers of options are written.
    public enum NumberForm: Sendable {
        /// With an optional suffix: `10M`.
        case size
        /// Plain integers, as in the definition of an object.
        case integer
        /// Plain integers that are numbers in JSON, not texts.
        case jsonNumber
    }

    /// The largest ``Rate/burstSeconds`` that options can state.
    private static let longestBurst = Int(UInt32.max)

    /// Takes the options of limits with that prefix out of `options`.
    ///
    /// Limits without an option keep their values. Does not ``validate()``.
    ///
    /// - Parameter prefix: `limits.`, `throttling.` or `x-`.
    /// - Returns: whether there were any.
    /// - Throws: `invalidArgument` for what is no number or out of its range.
    @discardableResult
    public mutating func take(
        from options: inout OptionTree, prefix: String, as form: NumberForm = .size
    ) throws(BlockError) -> Bool {
        var hasAny = false
        for (name, path) in Self.places {
            if let value = try form.take("\(prefix)\(name)", from: &options) {
                hasAny = true
                self[keyPath: path].average = value
            }
            if let value = try form.take("\(prefix)\(name)-max", from: &options) {
                hasAny = true
                self[keyPath: path].maximum = value
            }
            let length = "\(name)-max-length"
            if let value = try form.take("\(prefix)\(length)", from: &options) {
                hasAny = true
                guard (0...Self.longestBurst).contains(value) else {
                    let shown = prefix.hasSuffix(".") ? length : prefix + length
                    throw BlockError(
                        .invalidArgument,
                        "\(shown) value must be in the range [0, \(Self.longestBurst)]")
                }
                self[keyPath: path].burstSeconds = value
            }
        }
        if let value = try form.take("\(prefix)iops-size", from: &options) {
            hasAny = true
            operationBytes = value
        }
        return hasAny
    }
}

extension IOLimits.NumberForm {
    /// Removes and returns the number of that name; `nil` if it is not set.
    fileprivate func take(_ key: String, from options: inout OptionTree) throws(BlockError) -> Int? {
        if self == .size { return try options.takeSize(key) }
        if self == .jsonNumber, case .text = options.jsonValue(key) {
            throw BlockError(
                .invalidArgument, "Invalid parameter type for '\(key)', expected: integer")
        }
        guard let text = options.take(key) else { return nil }
        let isNegative = text.hasPrefix("-")
        let digits = isNegative || text.hasPrefix("+") ? String(text.dropFirst()) : text
        guard let magnitude = CLikeNumber.unsigned(digits), magnitude <= Int.max else {
            throw BlockError(.invalidArgument, "Parameter '\(key)' expects integer")
        }
        return isNegative ? -Int(magnitude) : Int(magnitude)
    }
}
