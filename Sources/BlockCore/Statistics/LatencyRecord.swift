/// What a node keeps of the times of its requests. A value, behind the lock of its statistics.
struct LatencyRecord: Sendable {
    typealias Operation = NodeStatistics.Operation

    var clock: any BlockClock = SystemClock()
    /// Whether time is measured even without histograms and intervals.
    var isRequested = false
    var histograms: [Operation: LatencyHistogram] = [:]
    private var windows: [Operation: [LatencyWindow]] = [:]
    private var totals = [0, 0, 0, 0]
    /// When the last request ended, in nanoseconds.
    private var lastEnd: Int?

    /// Whether anything here has to hear of requests.
    var isNeeded: Bool { isRequested || !histograms.isEmpty || !windows.isEmpty }
    var idleNanoseconds: Int? { lastEnd.map { max(0, clock.now() - $0) } }

    func nanoseconds(of operation: Operation) -> Int { totals[operation.rawValue] }

    mutating func setIntervals(seconds: [Int]) {
        let now = clock.now()
        windows = [:]
        if seconds.isEmpty { return }
        for operation in Operation.allCases {
            windows[operation] = seconds.map { LatencyWindow(seconds: $0, at: now) }
        }
    }

    func summaries(of operation: Operation) -> [LatencyWindow.Summary] {
        let now = clock.now()
        return windows[operation]?.map { $0.summary(at: now) } ?? []
    }

    /// Takes a request into account that began at `began` and ends now.
    mutating func note(_ operation: Operation, since began: Int) {
        let now = clock.now()
        let latency = max(0, now - began)
        lastEnd = now
        totals[operation.rawValue] &+= latency
        histograms[operation]?.add(latency)
        guard var own = windows[operation] else { return }
        // Taken out, so that it is changed in place.
        windows[operation] = nil
        for index in own.indices { own[index].add(latency, at: now) }
        windows[operation] = own
    }

    mutating func reset() {
        let now = clock.now()
        totals = [0, 0, 0, 0]
        lastEnd = nil
        for operation in Operation.allCases {
            histograms[operation]?.reset()
            windows[operation] = windows[operation]?.map { LatencyWindow(seconds: $0.seconds, at: now) }
        }
    }
}
