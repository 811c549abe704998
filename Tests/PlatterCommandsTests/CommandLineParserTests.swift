import BlockCore
import Testing

@testable import PlatterCommands

/// The command line alone: how options are taken apart, and how declarations get their values.
@Suite struct CommandLineParserTests {
    /// Declares options of every kind, as a command does.
    private struct Work: Equatable {
        let format: String?
        let backingFormat: String?
        let imageOpts: Bool
        let forceShare: Bool
        let progress: Bool
        let quiet: Bool
        let lists: [String]
        let operands: [String]

        init(_ options: inout OptionReader) {
            format = options.format()
            imageOpts = options.imageOpts()
            forceShare = options.forceShare()
            progress = options.progress()
            quiet = options.quiet()
            backingFormat = options.value("B", "backing-format", "FMT", "Format", olderShorts: ["F"])
            lists = options.values("o", nil, "K=V", "Options")
            options.refuse("T", "trace", "SPEC", "Refused", because: "there is none")
            options.help()
            operands = options.operands
        }
    }

    private static let table: [OptionSpec] = {
        var reader = OptionReader()
        _ = Work(&reader)
        return reader.table
    }()

    private func parsed(_ arguments: [String]) throws(CommandFailure) -> ParsedArguments {
        try CommandLineParser(options: Self.table, takesNegativeOperands: true).parse(arguments)
    }

    private func work(_ arguments: String...) throws(CommandFailure) -> Work {
        var reader = OptionReader(try parsed(arguments))
        return Work(&reader)
    }

    private func message(_ arguments: String...) -> String? {
        do throws(CommandFailure) {
            _ = try parsed(arguments)
            return nil
        } catch { return error.messages.first }
    }

    @Test(
        "a value may be attached, behind an equals sign, or the next word",
        arguments: [
            ["-fqcow2", "a"], ["-f", "qcow2", "a"], ["a", "--format=qcow2"], ["--form", "qcow2", "a"],
            ["a", "-f", "qcow2"], ["--format", "qcow2", "--", "a"],
        ])
    func spellings(_ arguments: [String]) throws {
        var reader = OptionReader(try parsed(arguments))
        let work = Work(&reader)
        #expect(work.format == "qcow2")
        #expect(work.operands == ["a"])
    }

    @Test func bundlesAreTakenApart() throws {
        let flags = try work("-pq", "a")
        #expect(flags.progress && flags.quiet && flags.format == nil && flags.operands == ["a"])
        let attached = try work("-pqfqcow2", "a")
        #expect(attached.progress && attached.quiet && attached.format == "qcow2")
        #expect(attached.operands == ["a"])
        let next = try work("-pf", "-q")
        #expect(next.progress && !next.quiet && next.format == "-q" && next.operands.isEmpty)
    }

    @Test func olderLettersAreTheSameOption() throws {
        #expect(try work("-Fraw").backingFormat == "raw")
        #expect(try work("-Braw").backingFormat == "raw")
        #expect(try work("-Braw", "-F", "qcow2").backingFormat == "qcow2")
    }

    @Test("of a value that is repeated the last one counts; a list has them all, in the order given")
    func repetition() throws {
        let work = try work("-o", "a=b,c", "-f", "raw", "-q", "-oc=d", "--format=vdi", "-q", "x", "-o=")
        #expect(work.format == "vdi")
        #expect(work.quiet)
        #expect(work.lists == ["a=b,c", "c=d", "="])
        #expect(work.operands == ["x"])
    }

    @Test func operandsStayOperands() throws {
        #expect(try work("img", "-1G").operands == ["img", "-1G"])
        let dash = try work("-", "-q")
        #expect(dash.operands == ["-"] && dash.quiet)
        let ended = try work("--", "-q", "--x", "--")
        #expect(ended.operands == ["-q", "--x", "--"] && !ended.quiet)
        let taken = try work("-f", "--", "a")
        #expect(taken.format == "--" && taken.operands == ["a"])
        #expect(try work("", "a=").operands == ["", "a="])
    }

    @Test func negativeNumbersAreOptionsElsewhere() {
        #expect(throws: CommandFailure.self) {
            _ = try CommandLineParser(options: Self.table).parse(["img", "-1G"])
        }
    }

    @Test func emptyValuesAreValues() throws {
        #expect(try work("-f", "").format == "")
        #expect(try work("-f", "raw", "--format=").format == "")
        #expect(try work("--format", "", "a").operands == ["a"])
        #expect(try work("-osize=").lists == ["size="])
    }

    @Test(
        "a value is what stands behind its option, byte for byte",
        arguments: ["\u{301}x", "\u{301}", "\u{200D}a", "e\u{301}", "\u{10FFFF}\u{10FF80}", "=\u{338}="])
    func valuesThatBeginWithACombiningMark(_ value: String) throws {
        for arguments in [["-f" + value], ["-qf" + value], ["--format=" + value], ["-f", value]] {
            var reader = OptionReader(try parsed(arguments))
            let found = try #require(Work(&reader).format)
            #expect(found.rawBytes == value.rawBytes, "\(arguments)")
        }
    }

    @Test("the commands of io take attached values in the same way", arguments: ["\u{301}x", "\u{301}", "1"])
    func attachedValuesOfShellCommands(_ value: String) throws {
        let verb = try #require(IoCatalog.verb(named: "read", asQemu: false))
        let call = IoCall(verb: verb, word: "read", arguments: ["-vP" + value, "0", "1"])
        let options = try call.options("vP:") { Issue.record("\($0)") }
        #expect(options.has("v") && options.operands == ["0", "1"])
        #expect(options.values["P"]?.rawBytes == value.rawBytes)
    }

    @Test func helpEndsTheReading() throws {
        for arguments in [["-h", "--nosuch"], ["-qh"], ["-hX"], ["--he"], ["a", "--help", "-f"]] {
            #expect(try parsed(arguments).asksForHelp, "\(arguments)")
        }
        #expect(try !parsed(["-f", "-h"]).asksForHelp)
        #expect(try !parsed(["--", "-h"]).asksForHelp)
    }

    @Test func messagesAreGetopts() {
        #expect(message("--nosuch=1") == "unrecognized option '--nosuch=1'")
        #expect(message("-x") == "invalid option -- 'x'")
        #expect(message("-qx") == "invalid option -- 'x'")
        #expect(message("-qf") == "option requires an argument -- 'f'")
        #expect(message("--format") == "option '--format' requires an argument")
        #expect(message("--form") == "option '--format' requires an argument")
        #expect(message("--quiet=1") == "option '--quiet' doesn't allow an argument")
        #expect(message("--qui=") == "option '--quiet' doesn't allow an argument")
        #expect(
            message("--fo=1")
                == "option '--fo=1' is ambiguous; possibilities: '--format' '--force-share'")
        #expect(message("--trace=x") == "Option '--trace' cannot be used: there is none")
        #expect(message("-T", "x") == "Option '--trace' cannot be used: there is none")
    }

    @Test func usesAreInTheOrderGiven() throws {
        let uses = try parsed(["-q", "-fraw", "-p", "x", "-q"]).uses
        #expect(uses.map(\.place) == [0, 1, 2, 3])
        #expect(uses.map { Self.table[$0.option].name } == ["quiet", "format", "progress", "quiet"])
        #expect(uses.map(\.value) == [nil, "raw", nil, nil])
    }
}

/// The tables that the commands' declarations make.
@Suite struct CommandTableTests {
    @Test(arguments: CommandList.all.map(\.name))
    func namesAreUnique(_ name: String) throws {
        let command = try #require(CommandList.command(named: name))
        let options = command.spec.options
        #expect(command.spec.name == name)
        #expect(command.spec.alias == command.alias)
        let shorts = options.compactMap(\.short) + options.flatMap(\.olderShorts)
        #expect(Set(shorts).count == shorts.count, "a letter is used twice")
        let longs = options.compactMap(\.long)
        #expect(Set(longs).count == longs.count, "a name is used twice")
        #expect(options.allSatisfy { !$0.name.isEmpty })
    }

    /// The n-th declaration takes the n-th option's values, so the answers must not change what is declared.
    @Test(arguments: CommandList.all.map(\.name))
    func declarationsDoNotDependOnAnswers(_ name: String) throws {
        let command = try #require(CommandList.command(named: name))
        let given = command.spec.options.filter { $0.refusal == nil && !$0.asksForHelp }
        let arguments = given.flatMap { option in
            [option.spellings.last ?? ""] + (option.value == nil ? [] : ["value"])
        }
        var reader = OptionReader(try command.spec.parser.parse(arguments + ["a", "b", "c"]))
        _ = command.init(&reader)
        _ = UniversalOptions(&reader)
        #expect(reader.table == command.spec.options)
    }
}
