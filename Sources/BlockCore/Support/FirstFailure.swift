/// Does several things of which none must keep the others from being done, and remembers the first failure.
///
/// ```swift
/// var failures = FirstFailure()
/// for file in files { failures.note { () throws(BlockError) in try file.close() } }
/// try failures.throwFirst()
/// ```
/// Not thread-safe.
public struct FirstFailure {
    private var first: BlockError?

    public init() {}

    /// Runs `body`, and keeps what it throws if nothing before it did.
    public mutating func note(_ body: () throws(BlockError) -> Void) {
        do throws(BlockError) { try body() } catch { first = first ?? error }
    }

    /// - Throws: the first failure, if there was one.
    public func throwFirst() throws(BlockError) {
        if let first { throw first }
    }
}
