import Testing

@testable import PlatterCommands

@Suite struct ArgumentNormalizerTests {
    private static let spec: CommandSpec = {
        var spec = CommandSpec(
            "work", "Work", operands: "FILE",
            options: [
                .format(), .imageOpts, .forceShare, .progress, .quiet,
                OptionSpec("B", "backing-format", "FMT", "Format", olderShorts: ["F"]),
                OptionSpec("o", nil, "K=V", "Options"),
            ])
        spec.takesNegativeOperands = true
        return spec
    }()

    private func normal(_ arguments: String...) throws(CommandFailure) -> ArgumentNormalizer.Normal {
        try ArgumentNormalizer(spec: Self.spec, program: "platter").normalise(arguments)
    }

    private func message(_ arguments: String...) -> String? {
        do throws(CommandFailure) {
            _ = try ArgumentNormalizer(spec: Self.spec, program: "platter").normalise(arguments)
            return nil
        } catch { return error.messages.first }
    }

    @Test func bindsValuesInAllSpellings() throws {
        for arguments in [
            ["-fqcow2", "a"], ["-f", "qcow2", "a"], ["a", "--format=qcow2"], ["--form", "qcow2", "a"],
        ] {
            let result = try ArgumentNormalizer(spec: Self.spec, program: "p").normalise(arguments)
            #expect(result == .arguments(["--format=qcow2", "--", "a"]))
        }
    }

    @Test func takesClustersApart() throws {
        #expect(try normal("-pq", "a") == .arguments(["--progress", "--quiet", "--", "a"]))
        #expect(
            try normal("-pqfqcow2", "a")
                == .arguments(["--progress", "--quiet", "--format=qcow2", "--", "a"]))
        #expect(try normal("-pf", "raw") == .arguments(["--progress", "--format=raw", "--"]))
    }

    @Test func olderLettersBindToTheNewName() throws {
        #expect(try normal("-Fraw") == .arguments(["--backing-format=raw", "--"]))
        #expect(try normal("-Braw") == .arguments(["--backing-format=raw", "--"]))
    }

    @Test func optionsWithoutLongNameAreBoundByTheirLetter() throws {
        #expect(try normal("-o", "a=b,c") == .arguments(["--o=a=b,c", "--"]))
    }

    @Test func operandsStayOperands() throws {
        #expect(try normal("img", "-1G") == .arguments(["--", "img", "-1G"]))
        #expect(try normal("-", "-q") == .arguments(["--quiet", "--", "-"]))
        #expect(try normal("--", "-q", "--x") == .arguments(["--", "-q", "--x"]))
        #expect(try normal("-f", "--", "a") == .arguments(["--format=--", "--", "a"]))
    }

    @Test func emptyValuesAreBound() throws {
        #expect(try RebaseCommand.bound(to: ["--backing=", "--cache=none", "--", "a="]).backing == "")
        #expect(try RebaseCommand.bound(to: ["--backing=", "--", "--x="]).operands == ["--x="])
        #expect(try CreateCommand.bound(to: ["--options=size=", "--", "a"]).options == ["size="])
    }

    @Test func emptyValuesAreValues() throws {
        #expect(try normal("-f", "", "--format=") == .arguments(["--format=", "--format=", "--"]))
    }

    @Test func helpEndsTheReading() throws {
        #expect(try normal("-h", "--nosuch") == .help)
        #expect(try normal("-qh") == .help)
        #expect(try normal("--he") == .help)
    }

    @Test func speaksAsGetoptDoes() {
        #expect(message("--nosuch=1") == "unrecognized option '--nosuch=1'")
        #expect(message("-x") == "invalid option -- 'x'")
        #expect(message("-qf") == "option requires an argument -- 'f'")
        #expect(message("--format") == "option '--format' requires an argument")
        #expect(message("--quiet=1") == "option '--quiet' doesn't allow an argument")
        #expect(
            message("--fo=1")
                == "option '--fo=1' is ambiguous; possibilities: '--format' '--force-share'")
    }

    /// Every option of a table must have its property, and the other way round.
    @Test(arguments: CommandList.all.map(\.name))
    func tablesAndPropertiesAgree(_ name: String) throws {
        let command = try #require(CommandList.command(named: name))
        #expect(command.spec.name == name)
        for option in command.spec.options where option.refusal == nil {
            // These are dealt with before a command is made.
            if ["help", "object", "open-policy"].contains(option.long) { continue }
            // Steps arrive under one name, to keep their order.
            let argument =
                option.isStep
                ? "--step=\(option.binding)" : "--\(option.binding)" + (option.value == nil ? "" : "=on")
            #expect(throws: Never.self, "\(name) \(argument)") {
                _ = try command.bound(to: [argument, "--", "a", "-b"])
            }
        }
        let shorts = command.spec.options.compactMap(\.short) + command.spec.options.flatMap(\.olderShorts)
        #expect(Set(shorts).count == shorts.count, "a letter is used twice")
    }
}
