import BlockCore

/// What a ``DebugDriver`` does when events and requests come: faults and changes of its state.
struct DebugRules: Sendable {
    /// The kinds of requests that a rule can make fail.
    enum Request: String, Sendable, CaseIterable {
        case read, write, discard, flush
        case writeZeroes = "write-zeroes"
        case status = "block-status"
        /// What a rule without a type is about.
        static let usual: Set<Request> = [.read, .write, .writeZeroes, .discard, .flush]
    }

    /// Requests fail from the event on, or always without one.
    struct Fault: Sendable {
        var event: MetadataEvent?
        /// Only in this state; 0 for any.
        var state = 0
        var requests = Request.usual
        var code: Int32 = 5
        /// Only requests that touch this byte.
        var offset: Int?
        var once = false
    }

    /// The state changes with an event.
    struct Transition: Sendable {
        var event: MetadataEvent
        var state = 0
        var newState = 0
    }

    var faults: [Fault] = []
    var transitions: [Transition] = []
    private var state = 1
    /// Indices of the faults that the last event with faults switched on.
    private var active: [Int] = []

    static let sectorBytes = 512

    /// Switches on the faults that wait for no event.
    mutating func begin() { active = faults.indices.filter { faults[$0].event == nil } }

    /// Takes note of an event.
    mutating func hear(_ event: MetadataEvent) {
        let woken = faults.indices.filter { faults[$0].event == event && applies(faults[$0].state) }
        if !woken.isEmpty { active = woken }
        if let change = transitions.first(where: { $0.event == event && applies($0.state) }) {
            state = change.newState
        }
    }

    private func applies(_ wanted: Int) -> Bool { wanted == 0 || wanted == state }

    /// The errno with which a request has to fail; `nil` when it may pass.
    mutating func fault(of request: Request, _ range: Range<Int>?) -> Int32? {
        let hit = active.first { index in
            let fault = faults[index]
            guard fault.requests.contains(request) else { return false }
            guard let offset = fault.offset else { return true }
            return range?.contains(offset) == true
        }
        guard let hit else { return nil }
        // Gone for good, also when its event comes again.
        if faults[hit].once { faults[hit].requests = [] }
        return faults[hit].code
    }
}

/// Rules from `inject-error.N.KEY` and `set-state.N.KEY`, or from a file with sections.
extension DebugRules {
    /// Takes all rules out of `options`.
    mutating func take(_ options: inout OptionTree) throws(BlockError) {
        for rule in try Self.numbered("inject-error", &options) { faults.append(try Self.fault(rule)) }
        for rule in try Self.numbered("set-state", &options) {
            transitions.append(try Self.transition(rule))
        }
    }

    private static func numbered(
        _ name: String, _ options: inout OptionTree
    ) throws(BlockError) -> [OptionTree] {
        var rest = options.takeSubtree(name)
        var rules: [OptionTree] = []
        while !rest.isEmpty {
            let rule = rest.takeSubtree(String(rules.count))
            guard !rule.isEmpty else {
                throw BlockError(.invalidArgument, "'\(name)' must be a list numbered from 0")
            }
            rules.append(rule)
        }
        return rules
    }

    /// Reads `[inject-error]` and `[set-state]` sections of lines `key = "value"`.
    ///
    /// - Throws: `invalidArgument` for what is neither.
    mutating func parse(_ text: String) throws(BlockError) {
        var section = ""
        var rule = OptionTree()
        for line in text.split(whereSeparator: \.isNewline).map(Self.trimmed) + ["[]"] {
            if line.isEmpty || line.hasPrefix("#") { continue }
            if line.hasPrefix("["), line.hasSuffix("]") {
                try add(rule, of: section)
                section = Self.trimmed(line.dropFirst().dropLast())
                rule = OptionTree()
                continue
            }
            guard let equals = line.firstIndex(of: "=") else {
                throw BlockError(.invalidArgument, "Could not parse blkdebug config line '\(line)'")
            }
            let value = Self.trimmed(line[line.index(after: equals)...])
            rule[Self.trimmed(line[..<equals])] = value.filter { $0 != "\"" }
        }
    }

    private mutating func add(_ rule: OptionTree, of section: String) throws(BlockError) {
        switch section {
        case "": break
        case "inject-error": faults.append(try Self.fault(rule))
        case "set-state": transitions.append(try Self.transition(rule))
        default: throw BlockError(.invalidArgument, "There is no option group '\(section)'")
        }
    }

    private static func trimmed(_ text: some StringProtocol) -> String {
        var text = Substring(text)
        while text.first?.isWhitespace == true { text.removeFirst() }
        while text.last?.isWhitespace == true { text.removeLast() }
        return String(text)
    }

    private static func fault(_ rule: OptionTree) throws(BlockError) -> Fault {
        var rule = rule
        var fault = Fault()
        let event = rule.take("event") ?? "none"
        if event != "none" { fault.event = try self.event(event) }
        fault.state = try number("state", &rule) ?? 0
        fault.code = Int32(clamping: try number("errno", &rule) ?? 5)
        if let type = rule.take("iotype") {
            guard let request = Request(rawValue: type) else {
                throw BlockError(.invalidArgument, "Parameter 'iotype' does not accept value '\(type)'")
            }
            fault.requests = [request]
        }
        if let sector = try number("sector", &rule), sector >= 0 {
            let (offset, overflow) = sector.multipliedReportingOverflow(by: sectorBytes)
            fault.offset = overflow ? .max : offset
        }
        fault.once = try rule.takeFlag("once") ?? false
        // Every failure is immediate here: a request has its thread to itself.
        _ = try rule.takeFlag("immediately")
        try checkEmpty(rule)
        return fault
    }

    private static func transition(_ rule: OptionTree) throws(BlockError) -> Transition {
        var rule = rule
        guard let name = rule.take("event") else {
            throw BlockError(.invalidArgument, "Missing event name for rule")
        }
        var change = Transition(event: try event(name))
        change.state = try number("state", &rule) ?? 0
        change.newState = try number("new_state", &rule) ?? 0
        try checkEmpty(rule)
        return change
    }

    private static func event(_ name: String) throws(BlockError) -> MetadataEvent {
        guard let event = MetadataEvent(rawValue: name) else {
            throw BlockError(.invalidArgument, "Invalid event name \"\(name)\"")
        }
        return event
    }

    private static func number(_ key: String, _ rule: inout OptionTree) throws(BlockError) -> Int? {
        guard let text = rule.take(key) else { return nil }
        guard let number = Int(text) else {
            throw BlockError(.invalidArgument, "Parameter '\(key)' expects a number")
        }
        return number
    }

    private static func checkEmpty(_ rule: OptionTree) throws(BlockError) {
        if let unknown = rule.keys.first {
            throw BlockError(.invalidArgument, "Invalid parameter '\(unknown)'")
        }
    }
}
