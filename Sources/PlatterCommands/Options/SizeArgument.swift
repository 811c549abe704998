import BlockCore

/// Sizes as operands and option values.
enum SizeArgument {
    /// A size in bytes from 0 to `Int.max`.
    ///
    /// - Parameter what: as in "Invalid image size specified".
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
