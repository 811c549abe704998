import BlockCore

/// The rules of a ``DebugDriver``: faults, and state changes at events.
struct DebugRules: Sendable {
    /// The kinds of requests that a rule can make fail.
    enum Request: String, Sendable, CaseIterable {
        case read, write, discard, flush
        case writeZeroes = "write-zeroes"
        case status = "block-status"
        /// The requests of a rule without a type.
        static let usual: Set<Request> = [.read, .write, .writeZeroes, .discard, .flush]
    }

    /// A rule that makes requests fail from the event on.
    struct Fault: Sendable {
        var event: MetadataEvent
        /// The state in which the rule applies; 0 for any.
        var state = 0
        var requests = Request.usual
        /// The errno of the failure; 0 lets the request pass.
        var code: Int32 = 5
        /// The byte that a request must touch to fail, as an offset; `nil` for any request.
        var offset: Int?
        var once = false
    }

    /// A rule that changes the state at an event.
    struct Transition: Sendable {
        var event: MetadataEvent
        var state = 0
        var newState = 0
    }

    var faults: [Fault] = []
    var transitions: [Transition] = []
    private var state = 1
    /// Indices of the faults that are active since the last event with faults.
    private var active: [Int] = []

    static let sectorBytes = 512

    /// Applies the rules of an event.
    mutating func hear(_ event: MetadataEvent) {
        let woken = faults.indices.filter { faults[$0].event == event && applies(faults[$0].state) }
        if !woken.isEmpty { active = woken }
        if let change = transitions.first(where: { $0.event == event && applies($0.state) }) {
            state = change.newState
        }
    }

    private func applies(_ wanted: Int) -> Bool { wanted == 0 || wanted == state }

    /// The errno with which a request fails; `nil` when it passes.
    mutating func fault(of request: Request, _ range: Range<Int>?) -> Int32? {
        let hit = active.first { index in
            let fault = faults[index]
            guard fault.requests.contains(request) else { return false }
            guard let offset = fault.offset else { return true }
            return range?.contains(offset) == true
        }
        guard let hit, faults[hit].code != 0 else { return nil }
        // The rule is used up, also for later occurrences of its event.
        if faults[hit].once { faults[hit].requests = [] }
        return faults[hit].code
    }
}
