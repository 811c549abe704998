import BlockCore

/// Sizes as operands and option values.
enum SizeArgument {
    /// Parses a size in bytes from `minimum` to `maximum`.
    ///
    /// - Parameters:
    ///     - what: the name of the size in messages, such as `image size` in "Invalid image size specified".
    ///     - defaultSuffix: the unit of a number without one.
    /// - Throws: for text that is no size, and a size out of range.
    static func parse(
        _ text: String, what: String, defaultSuffix: Character = "B", minimum: Int = 0, maximum: Int = .max
    ) throws(CommandFailure) -> Int {
        switch SizeParser.parse(text, defaultSuffix: defaultSuffix) {
        case .success(let bytes) where bytes <= maximum && bytes >= minimum: return Int(bytes)
        case .success, .failure(.outOfRange):
            throw CommandFailure("Invalid \(what) specified. Must be between \(minimum) and \(maximum).")
        case .failure(.malformed):
            throw CommandFailure("Invalid \(what) specified: '\(text)'")
        }
    }
}
