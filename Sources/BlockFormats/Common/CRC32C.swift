import BlockCore
import CHost

/// The checksum CRC-32C (Castagnoli; RFC 3720, appendix B.4), of bytes that may be added in parts.
///
/// A value type. Uses the processor's instruction where there is one.
struct CRC32C: Sendable, Equatable {
    private var flipped: UInt32 = .max

    /// The checksum of no bytes yet.
    init() {}

    /// The checksum of `bytes`.
    init(of bytes: RawSpan) { add(bytes) }

    /// The checksum of all bytes added so far.
    var value: UInt32 { ~flipped }

    /// Adds `bytes`.
    mutating func add(_ bytes: RawSpan) {
        let before = flipped
        flipped = bytes.withUnsafeBytes { platter_crc32c(before, $0.baseAddress, $0.count) }
    }

    /// Adds `count` zero bytes; meant for small counts.
    mutating func addZeroes(_ count: Int) {
        let zeroes = [UInt8](repeating: 0, count: count)
        add(zeroes.span.bytes)
    }

    /// The checksum computed with tables, without the processor's instruction; for tests.
    static func portable(_ bytes: RawSpan) -> UInt32 {
        ~bytes.withUnsafeBytes { platter_crc32c_portable(.max, $0.baseAddress, $0.count) }
    }
}

extension RawSpan {
    /// The CRC-32C of all bytes, with the four at `offset`, where the checksum itself is kept, taken as zero.
    /// `nil` when those four lie outside.
    func crc32c(zeroing offset: Int) -> UInt32? {
        guard let head = part(0..<offset), let tail = part(offset + 4..<byteCount) else { return nil }
        var sum = CRC32C(of: head)
        sum.addZeroes(4)
        sum.add(tail)
        return sum.value
    }
}
