import BlockCore

/// What a request came to.
struct IoOutcome: Sendable {
    /// What is to be told of it.
    var text: [UInt8] = []
    /// Whether that counts for the exit status.
    var hasFailed = false

    static func failure(_ line: String) -> IoOutcome {
        IoOutcome(text: "\(line)\n".rawBytes, hasFailed: true)
    }

    /// The same of a request whose failure is only told.
    var onlyTold: IoOutcome { IoOutcome(text: text) }
}

/// A request that reads: made on the shell's thread or another.
struct IoReading: Sendable {
    let node: BlockNode
    let offset: Int
    let count: Int
    let options: IoOptions
    let check: IoCheck
    let buffer: IoBuffer
    /// What a failure is told as.
    let failure: String
    private let began = MonotonicClock.nanoseconds()

    func outcome() -> IoOutcome {
        let memory = buffer.storage
        do throws(BlockError) {
            var bytes = memory.mutableBytes(buffer.range)
            if options.has("b") {
                try node.loadVMState(into: &bytes, at: offset)
            } else {
                try node.read(into: &bytes, at: offset)
            }
        } catch { return .failure("\(failure): \(error.message)") }
        let elapsed = MonotonicClock.nanoseconds() - began
        var outcome = check.passes(buffer) ? IoOutcome() : .failure(check.failure(at: offset))
        if options.has("q") { return outcome }
        if options.has("v") { outcome.text += IoReport.dump(memory.bytes(buffer.range), at: offset) }
        outcome.text += IoReport.line("read", offset, count, elapsed, options)
        return outcome
    }
}

/// A request that changes the image: made on the shell's thread or another.
struct IoChange: Sendable {
    /// What was done, in the past tense.
    let action: String
    let offset: Int
    let count: Int
    let options: IoOptions
    /// What a failure is told as.
    let failure: String
    let work: @Sendable () throws(BlockError) -> Void
    private let began = MonotonicClock.nanoseconds()

    init(
        _ action: String, _ offset: Int, _ count: Int, _ options: IoOptions, failure: String,
        _ work: @escaping @Sendable () throws(BlockError) -> Void
    ) {
        self.action = action
        self.offset = offset
        self.count = count
        self.options = options
        self.failure = failure
        self.work = work
    }

    func outcome() -> IoOutcome {
        do throws(BlockError) { try work() } catch { return .failure("\(failure): \(error.message)") }
        let elapsed = MonotonicClock.nanoseconds() - began
        if options.has("q") { return IoOutcome() }
        return IoOutcome(text: IoReport.line(action, offset, count, elapsed, options))
    }
}

extension IoReport {
    /// The report of a request, as bytes.
    static func line(
        _ action: String, _ offset: Int, _ count: Int, _ elapsed: Int, _ options: IoOptions
    ) -> [UInt8] {
        let report = IoReport(
            action: action, offset: offset, count: count, nanoseconds: elapsed,
            isForMachines: options.has("C"))
        return report.text.rawBytes
    }
}
