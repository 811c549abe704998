import BlockCore
import Synchronization

/// A file for tests that knows its holes, counts what is read and can be told what to fail.
final class ProbeDriver: ProtocolDriver {
    static let name = "probe"

    struct State {
        var bytes: [UInt8]
        /// Where there is data; all else is a hole.
        var data: [Range<Int>]
        var readBytes = 0
        var extentCalls = 0
        var unreadable: [Range<Int>] = []
        var writes: [Range<Int>] = []
        var zeroed: [Range<Int>] = []
        var copied = 0
        var copyLimit = 0
    }

    let state: Mutex<State>
    private let sizeBytes: Int

    init(size: Int, data: [Range<Int>] = [], bytes: [UInt8] = []) {
        sizeBytes = size
        state = Mutex(State(bytes: bytes, data: data))
    }

    func length() throws(BlockError) -> Int { sizeBytes }

    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = offset..<offset + buffer.byteCount
        let part = try state.withLock { state throws(BlockError) -> [UInt8] in
            if state.unreadable.contains(where: { $0.overlaps(range) }) {
                throw BlockError(.io, "Input/output error", errno: 5)
            }
            state.readBytes += range.count
            let inside = range.clamped(to: 0..<state.bytes.count)
            return Array(state.bytes[inside])
        }
        buffer.fill()
        if !part.isEmpty { buffer.copy(from: part.span.bytes) }
    }

    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let data = bytes.array
        state.withLock { state in
            let end = offset + data.count
            if state.bytes.count < end {
                state.bytes.append(contentsOf: repeatElement(0, count: end - state.bytes.count))
            }
            state.bytes.replaceSubrange(offset..<end, with: data)
            state.writes.append(offset..<end)
        }
    }

    func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        state.withLock { state in
            state.zeroed.append(offset..<offset + count)
            let inside = (offset..<offset + count).clamped(to: 0..<state.bytes.count)
            state.bytes.replaceSubrange(inside, with: repeatElement(0, count: inside.count))
        }
    }

    func discard(at offset: Int, count: Int) throws(BlockError) {}
    func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {}
    func flush() throws(BlockError) {}

    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        state.withLock { state in
            state.extentCalls += 1
            if let run = state.data.first(where: { $0.contains(offset) }) {
                return Extent(.data(hostOffset: offset), length: min(limit, run.upperBound - offset))
            }
            let next = state.data.map(\.lowerBound).filter { $0 > offset }.min() ?? sizeBytes
            return Extent(.zero(hostOffset: offset), length: min(limit, next - offset))
        }
    }

    func reopen(readOnly: Bool) throws(BlockError) {}
    func close() {}

    /// Copies at most `copyLimit` bytes a call.
    func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int {
        guard let source = source as? ProbeDriver else { return 0 }
        let amount = min(count, state.withLock { $0.copyLimit })
        guard amount > 0 else { return 0 }
        let bytes = source.state.withLock { Array($0.bytes[sourceOffset..<sourceOffset + amount]) }
        try write(bytes.span.bytes, at: offset)
        state.withLock { $0.copied += amount }
        return amount
    }
}
