import Foundation

/// Counts what a test of the proof tried, and notes it where `Scripts/prove` asks for the figures.
public struct ProofFigures: Sendable {
    private static let path = ProcessInfo.processInfo.environment["PLATTER_PROOF_FIGURES"]

    private let part: String
    private let what: String
    private let began = ContinuousClock.now
    /// How many points were tried.
    public var tried = 0
    /// At how many of them the promise did not hold.
    public var violations = 0

    /// - Parameters:
    ///   - part: the name of the table in docs/reliability.md.
    ///   - what: the row of the table; tests that name the same row add up.
    public init(part: String, what: String) {
        self.part = part
        self.what = what
    }

    /// Appends the figures to the file that `PLATTER_PROOF_FIGURES` names; does nothing without one.
    public func note() {
        guard let path = Self.path else { return }
        let took = began.duration(to: .now)
        let seconds = Double(took.components.seconds) + Double(took.components.attoseconds) * 1e-18
        let line = "\(part)\t\(what)\t\(tried)\t\(violations)\t\(seconds)\n"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        // One write to a file that is appended to: tests run at the same time.
        _ = line.withCString { write(descriptor, $0, strlen($0)) }
    }
}
