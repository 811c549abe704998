import BlockCore

/// Rules from a file with sections, and from `inject-error.N.KEY` and `set-state.N.KEY`. Refusals and their
/// messages are those of QEMU.
extension DebugRules {
    private static let faultSection = "inject-error"
    private static let transitionSection = "set-state"
    private static let sections = [
        faultSection: ["event", "state", "iotype", "errno", "sector", "once", "immediately"],
        transitionSection: ["event", "state", "new_state"],
    ]

    /// Takes the rules of `config`, the text of a file, and those of `options`.
    ///
    /// - Throws: `invalidArgument` for an invalid rule.
    mutating func take(config: String?, _ options: inout OptionTree) throws(BlockError) {
        var rules = try config.map(Self.parse) ?? []
        for section in [Self.faultSection, Self.transitionSection] {
            rules += try Self.rules(of: section, options.takeSubtree(section))
        }
        for rule in rules where rule.section == Self.faultSection { faults.append(try Self.fault(rule.keys)) }
        for rule in rules where rule.section == Self.transitionSection {
            transitions.append(try Self.transition(rule.keys))
        }
    }

    private typealias Rule = (section: String, keys: OptionTree)

    // MARK: Sections

    /// The rules of one section of the options: keys of one rule, or rules numbered from 0.
    private static func rules(of section: String, _ options: OptionTree) throws(BlockError) -> [Rule] {
        let known = sections[section] ?? []
        if options.keys.contains(where: known.contains) {
            return [(section, try checked(options, known, section))]
        }
        var rest = options
        var rules: [Rule] = []
        while !rest.isEmpty {
            let keys = rest.takeSubtree(String(rules.count))
            guard !keys.isEmpty else {
                throw BlockError(
                    .invalidArgument, "Unused option '\(rest.keys.first ?? "")' for [\(section)]")
            }
            rules.append((section, try checked(keys, known, section)))
        }
        return rules
    }

    private static func checked(
        _ keys: OptionTree, _ known: [String], _ section: String
    ) throws(BlockError) -> OptionTree {
        if let unknown = keys.keys.first(where: { !known.contains($0) }) {
            throw BlockError(
                .invalidArgument, "[\(section)] section doesn't support the option '\(unknown)'")
        }
        for key in keys.keys { try check(key, keys[key] ?? "") }
        return keys
    }

    /// Checks that a value is of its key's type.
    private static func check(_ key: String, _ value: String) throws(BlockError) {
        switch key {
        case "event", "iotype": break
        case "once", "immediately": _ = try OptionValue.bool(value, name: key)
        default: _ = try number(key, value)
        }
    }

    // MARK: Files

    /// Reads `[inject-error]` and `[set-state]` sections of lines `key = "value"`. A line that begins with
    /// `#` is a comment.
    private static func parse(_ text: String) throws(BlockError) -> [Rule] {
        var rules: [Rule] = []
        for line in text.split(separator: "\n") where line.first != "#" {
            if line.first == "[" {
                rules.append((try sectionName(line), OptionTree()))
                continue
            }
            guard let (key, value) = assignment(line) else {
                throw BlockError(.invalidArgument, "parse error")
            }
            guard !rules.isEmpty else { throw BlockError(.invalidArgument, "no group defined") }
            guard sections[rules[rules.count - 1].section]?.contains(key) == true else {
                throw BlockError(.invalidArgument, "Invalid parameter '\(key)'")
            }
            try check(key, value)
            rules[rules.count - 1].keys[key] = value
        }
        return rules
    }

    /// The name in `[name]` or `[name "id"]`.
    private static func sectionName(_ line: Substring) throws(BlockError) -> String {
        let inside = line.dropFirst().prefix { $0 != "]" }
        let name = inside.contains("\"") ? inside.prefix { $0 != " " } : inside
        guard sections[String(name)] != nil, inside.endIndex < line.endIndex else {
            throw BlockError(.invalidArgument, "There is no option group '\(name)'")
        }
        return String(name)
    }

    /// The parts of `key = "value"`. A value without quotes is empty.
    private static func assignment(_ line: Substring) -> (key: String, value: String)? {
        let start = line.drop(while: \.isWhitespace)
        let key = start.prefix { !$0.isWhitespace }
        if key.isEmpty { return nil }
        let rest = start[key.endIndex...].drop(while: \.isWhitespace)
        guard rest.first == "=" else { return (String(key), "") }
        let quoted = rest.dropFirst().drop(while: \.isWhitespace)
        guard quoted.first == "\"" else { return (String(key), "") }
        return (String(key), String(quoted.dropFirst().prefix { $0 != "\"" }))
    }

    // MARK: Rules

    private static func fault(_ rule: OptionTree) throws(BlockError) -> Fault {
        var fault = Fault(event: try event(of: rule))
        fault.state = try number("state", of: rule) ?? 0
        fault.code = Int32(truncatingIfNeeded: try number("errno", of: rule) ?? 5)
        if let type = rule["iotype"] {
            guard let request = Request(rawValue: type) else { throw invalid(type) }
            fault.requests = [request]
        }
        if let sector = try number("sector", of: rule), sector != -1 {
            let (offset, overflow) = sector.multipliedReportingOverflow(by: sectorBytes)
            fault.offset = overflow || sector < 0 ? .max : offset
        }
        var rule = rule
        fault.once = try rule.takeFlag("once") ?? false
        // `immediately` has no effect: each request has its own thread.
        return fault
    }

    private static func transition(_ rule: OptionTree) throws(BlockError) -> Transition {
        var change = Transition(event: try event(of: rule))
        change.state = try number("state", of: rule) ?? 0
        change.newState = try number("new_state", of: rule) ?? 0
        return change
    }

    private static func event(of rule: OptionTree) throws(BlockError) -> MetadataEvent {
        guard let name = rule["event"] else {
            throw BlockError(.invalidArgument, "Missing event name for rule")
        }
        guard let event = MetadataEvent(rawValue: name) else { throw invalid(name) }
        return event
    }

    private static func invalid(_ value: String) -> BlockError {
        BlockError(.invalidArgument, "invalid parameter value: \(value)")
    }

    private static func number(_ key: String, of rule: OptionTree) throws(BlockError) -> Int? {
        guard let text = rule[key] else { return nil }
        return try number(key, text)
    }

    private static func number(_ key: String, _ text: String) throws(BlockError) -> Int {
        if text.hasPrefix("-"), let number = Int(text) { return number }
        guard let number = CLikeNumber.unsigned(text) else {
            throw BlockError(.invalidArgument, "Parameter '\(key)' expects a number")
        }
        return Int(truncatingIfNeeded: number)
    }
}
