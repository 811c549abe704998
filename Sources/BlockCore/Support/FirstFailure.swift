/// Runs several closures, all of them even if one fails, and keeps the first error.
///
/// ```swift
/// var failures = FirstFailure()
/// for file in files { failures.note { () throws(BlockError) in try file.close() } }
/// try failures.throwFirst()
/// ```
/// Not thread-safe.
public struct FirstFailure {
    private var first: BlockError?

    /// No failure yet.
    public init() {}

    /// Runs `body`, and keeps its error if it is the first.
    public mutating func note(_ body: () throws(BlockError) -> Void) {
        do throws(BlockError) { try body() } catch { first = first ?? error }
    }

    /// Ends the series of calls.
    ///
    /// - Throws: the first error, of any kind, if there was one.
    public func throwFirst() throws(BlockError) {
        if let first { throw first }
    }
}
