/// A request at a node's door, from its beginning to its place in the statistics.
///
/// Each door begins one, ends it in a `defer`, and notes before it returns that the request succeeded:
/// whatever is thrown in between counts as a failure, once for each node that the request passed.
struct NodeRequest {
    enum Outcome { case failed, done, uncounted }

    let operation: NodeStatistics.Operation
    let offset: Int
    /// In bytes.
    var count: Int
    let began: Int?
    var outcome = Outcome.failed
}

extension BlockNode {
    @inline(__always)
    func begin(_ operation: NodeStatistics.Operation, at offset: Int = 0, count: Int = 0) -> NodeRequest {
        NodeRequest(operation: operation, offset: offset, count: count, began: statistics.now())
    }

    @inline(__always)
    func end(_ request: NodeRequest) {
        guard request.outcome == .done else { return endUnfinished(request) }
        statistics.count(request.operation, bytes: request.count, since: request.began)
        if request.operation == .write { statistics.noteWritten(upTo: request.offset + request.count) }
    }

    private func endUnfinished(_ request: NodeRequest) {
        if request.outcome == .uncounted { return }
        statistics.countFailure(
            request.operation, isInvalid: isInvalid(request), since: request.began)
    }

    /// Whether the node had to refuse a request that failed.
    private func isInvalid(_ request: NodeRequest) -> Bool {
        if isClosed { return true }
        switch request.operation {
        case .flush: return false
        case .write, .discard: if isReadOnly { return true }
        case .read: break
        }
        guard request.offset >= 0, request.count >= 0 else { return true }
        // A disk that holds an image grows with a write behind its end.
        guard !settings.holdsImage, let disk = unfiltered.format?.virtualSize else { return false }
        return request.offset > disk - request.count
    }
}
