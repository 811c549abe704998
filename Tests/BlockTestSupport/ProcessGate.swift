import BlockCore
import Foundation
import Synchronization

/// Starts the tests' processes one at a time.
///
/// Between its fork and its exec a child has all our open files, with their locks: for that moment a file
/// that another test has closed stays locked. Starting a process returns after the exec, so that nobody has
/// such a file any more once this gate was passed. Thread-safe.
public enum ProcessGate {
    private static let gate = Mutex(())

    /// Starts a process; on return it runs its program.
    public static func start(_ process: Process) throws { try gate.withLock { _ in try process.run() } }

    /// Runs `body`, and again if it found a file locked that a process about to start may have had.
    ///
    /// - Parameter isLocked: whether the outcome is that of a locked file.
    public static func afterStarts<Outcome>(
        _ body: () throws -> Outcome, isLocked: (Outcome) -> Bool
    ) throws -> Outcome {
        let outcome = try body()
        guard isLocked(outcome) else { return outcome }
        gate.withLock { _ in }
        return try body()
    }

    /// Opens an image, and again if it was locked by a process about to start.
    public static func opening(_ body: () throws -> BlockNode) throws -> BlockNode {
        do { return try body() } catch let error as BlockError where error.kind == .busy {
            gate.withLock { _ in }
            return try body()
        }
    }
}
