import BlockTestSupport
import Testing

/// Tests that call the program in a folder of their own.
protocol CommandSuite {
    var fixture: CommandFixture { get }
}

extension CommandSuite {
    /// Runs a line of shell and holds status, output and error text against what they must be.
    func expect(
        _ line: String, _ status: Int32, _ output: String = "", _ error: String = "",
        at place: SourceLocation = #_sourceLocation
    ) throws {
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == status, "\(line)", sourceLocation: place)
        #expect(outcome.output == output, "\(line)", sourceLocation: place)
        #expect(outcome.error == error, "\(line)", sourceLocation: place)
    }
}
