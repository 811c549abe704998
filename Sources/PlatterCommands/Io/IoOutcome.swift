import BlockCore

/// The result of a request.
struct IoOutcome: Sendable {
    /// The lines to print.
    var text: [UInt8] = []
    /// Whether that counts for the exit status.
    var hasFailed = false

    static func failure(_ line: String) -> IoOutcome {
        IoOutcome(text: "\(line)\n".rawBytes, hasFailed: true)
    }

    /// The same of a request whose failure is printed, but does not count.
    var uncounted: IoOutcome { IoOutcome(text: text) }
}

/// The guest bytes of a request.
struct IoSpan: Sendable {
    var offset = 0
    var count = 0

    /// The bytes as a range, which ends at the largest offset where the sum would overflow.
    var range: Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(count)
        return offset..<(overflow ? .max : end)
    }
}

/// A request of the shell, and how it is reported. Its time starts when this value is made.
struct IoRequest: Sendable {
    /// `read`, `wrote` or `discard`.
    let action: String
    let span: IoSpan
    let options: IoOptions
    /// The beginning of the line that reports a failure.
    let failure: String
    private let began = MonotonicClock.nanoseconds()

    init(_ action: String, _ span: IoSpan, _ options: IoOptions, failure: String) {
        self.action = action
        self.span = span
        self.options = options
        self.failure = failure
    }

    /// The report of a request that has just succeeded, behind the bytes of `shown`; empty with `-q`.
    func success(showing shown: () -> [UInt8] = { [] }) -> [UInt8] {
        let elapsed = MonotonicClock.nanoseconds() - began
        if options.has("q") { return [] }
        let report = IoReport(
            action: action, offset: span.offset, count: span.count, nanoseconds: elapsed,
            isForMachines: options.has("C"))
        return shown() + report.text.rawBytes
    }

    func failed(_ error: BlockError) -> IoOutcome { .failure("\(failure): \(error.message)") }
}

/// A request that reads: made on the shell's thread or another.
struct IoReading: Sendable {
    let request: IoRequest
    let disk: BlockDevice
    let check: IoCheck
    let buffer: IoBuffer

    func outcome() -> IoOutcome {
        let (memory, offset) = (buffer.storage, request.span.offset)
        do throws(BlockError) {
            var bytes = memory.mutableBytes(buffer.range)
            if request.options.has("b") {
                try load(&bytes, offset)
            } else {
                try disk.read(into: &bytes, at: offset)
            }
        } catch { return request.failed(error) }
        let report = request.success {
            request.options.has("v") ? IoReport.dump(memory.bytes(buffer.range), at: offset) : []
        }
        var outcome = check.passes(buffer) ? IoOutcome() : .failure(check.failure(at: offset))
        outcome.text += report
        return outcome
    }

    private func load(_ bytes: inout MutableRawSpan, _ offset: Int) throws(BlockError) {
        guard let node = disk.root else { return }
        try node.loadVMState(into: &bytes, at: offset)
    }
}

/// A request that changes the image: made on the shell's thread or another.
struct IoChange: Sendable {
    let request: IoRequest
    let work: @Sendable () throws(BlockError) -> Void

    init(_ request: IoRequest, _ work: @escaping @Sendable () throws(BlockError) -> Void) {
        self.request = request
        self.work = work
    }

    func outcome() -> IoOutcome {
        do throws(BlockError) { try work() } catch { return request.failed(error) }
        return IoOutcome(text: request.success())
    }
}
