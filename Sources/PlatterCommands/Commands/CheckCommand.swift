import BlockCore
import BlockJobs

/// `check`: looks for damage in an image's structure, and repairs it.
struct CheckCommand: ImageCommand {
    static let spec: CommandSpec = {
        var spec = CommandSpec(
            "check", "Check an image's structure and repair it", operands: "FILE",
            options: table,
            notes: ["Findings are told on standard error as they are made."])
        spec.statuses = [
            (0, "the image is good, now at least"), (1, "the check could not be done"),
            (2, "the image is corrupted"), (3, "space is leaked, data is safe"),
            (unsupportedStatus, "the format has no checks"),
        ]
        return spec
    }()

    private static let unsupportedStatus: Int32 = 63

    private let source: SourceOptions
    private let cache: String?
    private let repair: String?
    private let forceShare: Bool
    private let output: String?
    private let quiet: Bool
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        cache = options.cache("T", of: "the image")
        repair = options.value(
            "r", "repair", "leaks|all",
            "Repair: leaked space only, or everything (which may lose data that is damaged already)")
        forceShare = options.forceShare()
        output = options.output()
        quiet = options.quiet()
        operands = options.operands
    }

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let mode = try repairMode()
        let cache = try context.cacheMode(cache, what: "source ")
        let image = try ImageName(try context.oneFile(operands), source)
        let settings = OpenSettings(
            readOnly: mode == .none, cache: cache, forceShare: forceShare, forCheck: true)
        return try context.closing(try context.open(image, settings: settings)) { node in
            guard node.format?.asCheckable != nil else {
                throw CommandFailure(
                    "This image format does not support checks", status: Self.unsupportedStatus)
            }
            var result = try repaired(node, mode, output, context)
            if let loss = try? node.lookForCut() {
                context.terminal.error("ERROR: \(loss.message)")
                result.corruptions = max(1, result.corruptions)
            }
            show(result, node, output, context)
            return CheckReport.status(result)
        }
    }

    private func repairMode() throws(CommandFailure) -> RepairMode {
        switch repair {
        case nil: return .none
        case "leaks": return .leaks
        case "all": return .all
        case let other?:
            throw .usage("--repair (-r) expects 'leaks' or 'all', not '\(other)'")
        }
    }

    /// Checks the image, and once more where the first check has repaired something.
    private func repaired(
        _ node: BlockNode, _ mode: RepairMode, _ output: OutputFormat, _ context: CommandContext
    ) throws -> CheckResult {
        let first = try run(node, mode, context)
        guard first.leaksFixed > 0 || first.corruptionsFixed > 0 else { return first }
        if output == .human && !quiet { context.terminal.print(CheckReport.repaired(first)) }
        var second = try run(node, .none, context)
        second.leaksFixed = first.leaksFixed
        second.corruptionsFixed = first.corruptionsFixed
        return second
    }

    private func show(
        _ result: CheckResult, _ node: BlockNode, _ output: OutputFormat, _ context: CommandContext
    ) {
        if output == .json {
            let json = CheckReport.json(result, filename: operands[0], format: node.driverName)
            context.terminal.print(JSONWriter.text(json))
        } else if !quiet {
            context.terminal.print(CheckReport.summary(result))
        }
    }

    private func run(
        _ node: BlockNode, _ mode: RepairMode, _ context: CommandContext
    ) throws(CommandFailure) -> CheckResult {
        let job = CheckJob(node, repair: mode) { context.terminal.error(PrintableText.shown($0)) }
        let reporter = ProgressReporter(context, isShown: false, endsAtInterrupt: true)
        defer { reporter.finish(succeeded: true) }
        do throws(BlockError) { try JobEngine().run(job, reporter.control) } catch {
            throw CommandFailure("Check failed: \(error.message)", details: error.hint.map { [$0] } ?? [])
        }
        return job.result ?? CheckResult()
    }
}

/// The texts and the exit status of a check's result.
enum CheckReport {
    static func repaired(_ result: CheckResult) -> String {
        "The following inconsistencies were found and repaired:\n\n"
            + "    \(result.leaksFixed) leaked clusters\n    \(result.corruptionsFixed) corruptions\n\n"
            + "Double checking the fixed image now...\n"
    }

    static func summary(_ result: CheckResult) -> String {
        var text = ""
        if result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0 {
            text += "No errors were found on the image.\n"
        }
        if result.corruptions > 0 {
            text +=
                "\n\(result.corruptions) errors were found on the image.\n"
                + "Data may be corrupted, or further writes to the image may corrupt it.\n"
        }
        if result.leaks > 0 {
            text +=
                "\n\(result.leaks) leaked clusters were found on the image.\n"
                + "This means waste of disk space, but no harm to data.\n"
        }
        if result.checkErrors > 0 {
            text += "\n\(result.checkErrors) internal errors have occurred during the check.\n"
        }
        if result.totalClusters > 0 && result.allocatedClusters > 0 { text += clusters(result) }
        if let end = result.imageEndOffset, end > 0 { text += "Image end offset: \(end)\n" }
        return text
    }

    private static func clusters(_ result: CheckResult) -> String {
        func percent(_ part: Int, of whole: Int) -> String {
            HumanSize.percent(Double(part) * 100 / Double(whole)) + "%"
        }
        let (allocated, total) = (result.allocatedClusters, result.totalClusters)
        return
            "\(allocated)/\(total) = \(percent(allocated, of: total)) allocated, "
            + "\(percent(result.fragmentedClusters, of: allocated)) fragmented, "
            + "\(percent(result.compressedClusters, of: allocated)) compressed clusters\n"
    }

    /// The fields in qemu-img's order, without those that are zero.
    static func json(_ result: CheckResult, filename: String, format: String) -> InfoValue {
        let numbers: [(String, Int)] = [
            ("image-end-offset", result.imageEndOffset ?? 0),
            ("compressed-clusters", result.compressedClusters), ("total-clusters", result.totalClusters),
            ("corruptions", result.corruptions), ("corruptions-fixed", result.corruptionsFixed),
            ("check-errors", result.checkErrors), ("leaks", result.leaks),
            ("leaks-fixed", result.leaksFixed), ("allocated-clusters", result.allocatedClusters),
        ]
        var fields = numbers.filter { $0.1 != 0 || $0.0 == "check-errors" }
            .map { InfoField($0.0, .number($0.1)) }
        fields += [InfoField("filename", .text(filename)), InfoField("format", .text(format))]
        if result.fragmentedClusters != 0 {
            fields.append(InfoField("fragmented-clusters", .number(result.fragmentedClusters)))
        }
        return .object(fields)
    }

    static func status(_ result: CheckResult) -> Int32 {
        if result.corruptions > 0 { return 2 }
        if result.leaks > 0 { return 3 }
        return result.checkErrors > 0 ? 1 : 0
    }
}
