import BlockCore
import Synchronization

/// Equal requests to a node, a number of them at a time, with the time that they took.
///
/// Request `i` starts at `offset + i * step`, wrapped at the end of the disk from the second one on. Each of
/// the requests under way has a thread of its own, which takes the next number when it is done.
public struct BenchJob: Sendable {
    /// How many requests.
    public var count = 75000
    /// How many are under way at once.
    public var depth = 64
    /// Where the first one starts, in bytes.
    public var offset = 0
    /// The size of one, in bytes.
    public var requestBytes = 4096
    /// The distance between starts, in bytes.
    public var stepBytes = 4096
    /// Write, with ``pattern``, rather than read.
    public var writes = false
    public var pattern: UInt8 = 0
    /// Flush after so many writes; `nil` for never.
    public var flushInterval: Int?
    /// A flush waits for all writes before it, and those after it wait for the flush.
    public var drains = true

    private let node: BlockNode

    /// The memory that all requests together may take, in bytes.
    public static let maximumBufferBytes = 16 << 30

    public init(_ node: BlockNode) { self.node = node }

    /// Makes all requests.
    ///
    /// - Returns: the time that passed, in nanoseconds.
    /// - Throws: the first error of a request, after those under way have ended; `limit` when the buffers
    ///   would take too much memory.
    public func run() throws(BlockError) -> Int {
        let workers = max(1, min(depth, count))
        guard requestBytes <= Self.maximumBufferBytes / workers else {
            throw BlockError(.limit, "The buffers of \(workers) requests would take too much memory")
        }
        let size = try node.length()
        let round = drains ? flushInterval ?? count : count
        let buffers = (0..<workers).map { _ in AlignedBuffer(count: requestBytes) }
        if writes { for buffer in buffers { Self.fill(buffer, with: pattern) } }
        let began = MonotonicClock.nanoseconds()
        var first = 0
        while first < count {
            let end = min(count, first + max(1, min(round, count)))
            try run(first..<end, buffers, size)
            if drains, let flushInterval, end % flushInterval == 0 { try node.flush() }
            first = end
        }
        return MonotonicClock.nanoseconds() - began
    }

    private static func fill(_ buffer: AlignedBuffer, with byte: UInt8) {
        var bytes = buffer.mutableBytes
        bytes.fill(byte)
    }

    /// Makes the requests with these numbers.
    private func run(_ numbers: Range<Int>, _ buffers: [AlignedBuffer], _ size: Int) throws(BlockError) {
        let cursor = BenchCursor(numbers)
        try WorkerThreads.run(min(buffers.count, numbers.count)) { worker throws(BlockError) in
            let buffer = buffers[worker]
            do throws(BlockError) {
                while let number = cursor.next() { try request(number, buffer, size) }
            } catch {
                cursor.stop()
                throw error
            }
        }
    }

    private func request(_ number: Int, _ buffer: AlignedBuffer, _ size: Int) throws(BlockError) {
        let place = start(number, size)
        guard writes else {
            var bytes = buffer.mutableBytes
            return try node.read(into: &bytes, at: place)
        }
        try node.write(buffer.bytes, at: place)
        if !drains, let flushInterval, (number + 1) % flushInterval == 0 { try node.flush() }
    }

    /// Where a request starts.
    private func start(_ number: Int, _ size: Int) -> Int {
        if number == 0 { return offset }
        if size <= 0 { return 0 }
        let (way, overflow) = number.multipliedReportingOverflow(by: stepBytes)
        let (sum, tooFar) = way.addingReportingOverflow(offset)
        if !overflow && !tooFar { return sum % size }
        let wide = UInt(number).multipliedFullWidth(by: UInt(stepBytes))
        let rest = UInt(size).dividingFullWidth((wide.high % UInt(size), wide.low)).remainder
        return (Int(rest) + offset % size) % size
    }
}

/// Hands out numbers, each once. Thread-safe.
private final class BenchCursor: Sendable {
    private let position: Atomic<Int>
    private let end: Int

    init(_ numbers: Range<Int>) {
        position = Atomic(numbers.lowerBound)
        end = numbers.upperBound
    }

    func next() -> Int? {
        let number = position.wrappingAdd(1, ordering: .relaxed).oldValue
        return number < end ? number : nil
    }

    func stop() { position.store(end, ordering: .relaxed) }
}
