import BlockCore
import Synchronization

/// Times equal requests to a node, several of which run at once.
///
/// Request `i` starts at `offset + i * stepBytes`; from the second one on, modulo the size of the disk. Each
/// thread makes one request at a time and takes the next number when it is done.
public struct BenchJob: Sendable {
    /// The number of requests.
    public var count = 75000
    /// The number of requests under way at once; each has a thread of its own.
    public var depth = 64
    /// The guest offset of the first request, in bytes.
    public var offset = 0
    /// The size of a request, in bytes.
    public var requestBytes = 4096
    /// The distance between the starts of two requests, in bytes.
    public var stepBytes = 4096
    /// Whether the requests write ``pattern`` instead of reading.
    public var writes = false
    /// The byte that is written.
    public var pattern: UInt8 = 0
    /// The number of writes between two flushes; `nil` for no flush.
    public var flushInterval: Int?
    /// Whether a flush waits for all writes before it, and all writes after it wait for the flush.
    public var drains = true

    private let node: BlockNode

    /// The limit on the buffers of all requests under way together, in bytes.
    public static let maximumBufferBytes = Int.gib(16)

    /// - Parameter node: the image; writable for a job that ``writes``.
    public init(_ node: BlockNode) { self.node = node }

    /// Makes all requests and returns when they have ended.
    ///
    /// - Returns: the time that the requests took, in nanoseconds.
    /// - Throws: the first error of a request, after those under way have ended; `limit` when the buffers
    ///   would need more than ``maximumBufferBytes``.
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

    /// Makes the requests of these numbers, the buffers deciding how many at once.
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

    /// The guest offset of a request, in bytes.
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

/// Hands out the numbers of requests, each once. Thread-safe.
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
