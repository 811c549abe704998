import BlockCore

/// LZVN, LZFSE's variant for small inputs: literals and matches behind opcodes of one to three bytes.
///
/// An opcode holds the number of literals that follow it (L), then the length of a match (M) and its distance
/// back (D); a match without a distance of its own uses the last one.
///
/// ```
/// LLMMMDDD dddddddd             D < 0x600: 11 bits, the opcode's first        M + 3
/// LLMMM110                      the last distance; L = 0 has other meanings   M + 3
/// LLMMM111 dddddddd dddddddd    D of 16 bits, little-endian                   M + 3
/// 101LLMMM ddddddmm dddddddd    D of 14 bits, M of 5 with mm the low ones     M + 3
/// 11100000 nnnnnnnn             n + 16 literals          1110nnnn   n literals
/// 11110000 nnnnnnnn             n + 16 repeated bytes    1111nnnn   n repeated bytes
/// 00000110 end    00001110, 00010110 nothing    the rest is not used
/// ```
enum Lzvn {
    private struct Step {
        var literals = 0
        var matched = 0
        /// 0 for the last distance.
        var distance = 0
        /// The length of the opcode.
        var bytes = 1
        var isEnd = false
    }

    /// Decompresses from `output[start]` to its end; matches may reach back before `start`.
    ///
    /// - Throws: `corrupt` when the stream is damaged, ends early or holds more.
    static func decompress(
        _ input: RawSpan, into output: inout MutableRawSpan, from start: Int
    ) throws(BlockError) {
        var read = 0
        var written = start
        var distance = 0
        while true {
            guard let step = step(input, at: read) else {
                throw BlockError(.corrupt, "Compressed data is damaged or ends early")
            }
            if step.isEnd { break }
            if step.distance > 0 { distance = step.distance }
            read += step.bytes
            guard output.append(input, read..<read + step.literals, at: written) else { throw damaged }
            read += step.literals
            written += step.literals
            guard step.matched > 0 else { continue }
            guard output.repeatBytes(at: written, distance: distance, count: step.matched) else {
                throw damaged
            }
            written += step.matched
        }
        guard written == output.byteCount else { throw damaged }
    }

    private static var damaged: BlockError { BlockError(.corrupt, "Compressed data is damaged") }

    /// The step of the opcode at `offset`; `nil` when there is none, or an invalid one.
    private static func step(_ input: RawSpan, at offset: Int) -> Step? {
        guard let opcode: UInt8 = input.littleEndian(at: offset) else { return nil }
        switch opcode {
        case 0x06: return Step(isEnd: true)
        case 0x0E, 0x16: return Step()
        case 0x1E, 0x26, 0x2E, 0x36, 0x3E, 0x70...0x7F, 0xD0...0xDF: return nil
        case 0xA0...0xBF: return medium(opcode, input, offset)
        case 0xE0, 0xF0:
            guard let count: UInt8 = input.littleEndian(at: offset + 1) else { return nil }
            return run(of: Int(count) + 16, opcode, bytes: 2)
        case 0xE1...0xEF, 0xF1...0xFF: return run(of: Int(opcode & 15), opcode, bytes: 1)
        default: return match(opcode, input, offset)
        }
    }

    private static func run(of count: Int, _ opcode: UInt8, bytes: Int) -> Step {
        opcode < 0xF0 ? Step(literals: count, bytes: bytes) : Step(matched: count, bytes: bytes)
    }

    private static func medium(_ opcode: UInt8, _ input: RawSpan, _ offset: Int) -> Step? {
        guard let more: UInt16 = input.littleEndian(at: offset + 1), more >> 2 > 0 else { return nil }
        return Step(
            literals: Int(opcode >> 3 & 3), matched: Int(opcode & 7) << 2 + Int(more & 3) + 3,
            distance: Int(more >> 2), bytes: 3)
    }

    private static func match(_ opcode: UInt8, _ input: RawSpan, _ offset: Int) -> Step? {
        var step = Step(literals: Int(opcode >> 6), matched: Int(opcode >> 3 & 7) + 3)
        switch opcode & 7 {
        case 6: return step
        case 7:
            guard let distance: UInt16 = input.littleEndian(at: offset + 1), distance > 0 else { return nil }
            step.distance = Int(distance)
            step.bytes = 3
        default:
            guard let low: UInt8 = input.littleEndian(at: offset + 1) else { return nil }
            step.distance = Int(opcode & 7) << 8 + Int(low)
            guard step.distance > 0 else { return nil }
            step.bytes = 2
        }
        return step
    }
}
