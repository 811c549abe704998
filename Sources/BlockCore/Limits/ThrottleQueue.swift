/// The waiting requests of one direction: first come, first served within a member; members take turns.
struct ThrottleQueue: Sendable {
    /// The tickets of each member with waiting requests, in the order of arrival.
    private var tickets: [Int: [Int]] = [:]
    /// The members with waiting requests; the first one has the turn.
    private var members: [Int] = []

    var isEmpty: Bool { members.isEmpty }
    /// The ticket of the request that begins next.
    var head: Int? { members.first.flatMap { tickets[$0]?.first } }

    mutating func append(_ ticket: Int, of member: Int) {
        if tickets[member] == nil { members.append(member) }
        tickets[member, default: []].append(ticket)
    }

    /// Removes a request that begins. If it had the turn, the turn goes to the next member.
    mutating func remove(_ ticket: Int, of member: Int) {
        guard var own = tickets[member], let index = own.firstIndex(of: ticket) else { return }
        own.remove(at: index)
        let hadTurn = members.first == member
        tickets[member] = own.isEmpty ? nil : own
        if own.isEmpty {
            members.removeAll { $0 == member }
        } else if hadTurn {
            members.append(members.removeFirst())
        }
    }
}
