import BlockCore

extension RawSpan {
    /// How many bytes are compared at once before a difference is looked for.
    private static var blockBytes: Int { 4096 }

    /// The offset of the first byte that differs from that of `other`, which is as long; `nil` if all are the
    /// same.
    func firstDifference(from other: RawSpan) -> Int? {
        var start = 0
        let count = Swift.min(byteCount, other.byteCount)
        while start < count {
            let end = Swift.min(start + Self.blockBytes, count)
            if !extracting(start..<end).hasSameBytes(as: other.extracting(start..<end)) {
                for index in start..<end {
                    let mine = unsafeLoad(fromByteOffset: index, as: UInt8.self)
                    if mine != other.unsafeLoad(fromByteOffset: index, as: UInt8.self) { return index }
                }
            }
            start = end
        }
        return nil
    }
}
