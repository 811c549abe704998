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

    /// Requests fail from the event on.
    struct Fault: Sendable {
        var event: MetadataEvent
        /// Only in this state; 0 for any.
        var state = 0
        var requests = Request.usual
        /// The errno; 0 lets the request pass.
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
        guard let hit, faults[hit].code != 0 else { return nil }
        // Gone for good, also when its event comes again.
        if faults[hit].once { faults[hit].requests = [] }
        return faults[hit].code
    }
}
