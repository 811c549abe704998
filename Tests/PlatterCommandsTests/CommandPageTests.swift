import Foundation
import Testing

@testable import PlatterCommands

/// The pages in docs/commands tell exactly the options that the tables have.
@Suite struct CommandPageTests {
    @Test(arguments: CommandList.all.map(\.name))
    func pageHasTheOptionsOfTheTable(_ name: String) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let page = try String(contentsOf: root.appending(path: "docs/commands/\(name).md"), encoding: .utf8)
        let spec = try #require(CommandList.command(named: name)).spec
        let told = page.split(separator: "\n").filter { $0.hasPrefix("- `-") }
            .map { Set(Self.names(String($0))) }
        for option in spec.options {
            var names: Set<String> = []
            if let short = option.short { names.insert("-\(short)") }
            if let long = option.long { names.insert("--\(long)") }
            #expect(told.contains(names), "\(name).md lacks \(names.sorted())")
        }
        #expect(told.count == spec.options.count, "\(name).md tells of options that are not there")
    }

    /// The names in the code at the beginning of a list item, without their values.
    private static func names(_ item: String) -> [String] {
        guard let end = item.range(of: "`: ") else { return [] }
        return item[..<end.lowerBound].split(separator: "`").filter { $0.hasPrefix("-") && $0.count > 1 }
            .compactMap { $0.split(whereSeparator: { $0 == " " || $0 == "=" }).first.map(String.init) }
            .filter { $0 != "-" }
    }
}
