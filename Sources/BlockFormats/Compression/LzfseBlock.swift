import BlockCore

/// The numbers of LZFSE's alphabets: lengths of literals (L), of matches (M), distances (D), and literals.
///
/// A symbol of L, M and D stands for a base and a number of extra bits; the bases are the running sums.
enum LzfseAlphabet {
    static let lengthSymbols = 20
    static let distanceSymbols = 64
    static let literalSymbols = 256
    static let symbols = 2 * lengthSymbols + distanceSymbols + literalSymbols
    static let lengthStates = 64
    static let distanceStates = 256
    static let literalStates = 1024
    static let maximumMatches = 10_000
    static let maximumLiterals = 4 * maximumMatches

    static let literalLengthBits = [Int](repeating: 0, count: 16) + [2, 3, 5, 8]
    static let matchLengthBits = [Int](repeating: 0, count: 16) + [3, 5, 8, 11]
    static let distanceBits = (0..<distanceSymbols).map { $0 / 4 }
}

/// The header of a compressed block of LZFSE, all little-endian.
///
/// ```
/// bvx2: 00 magic  04 raw bytes  08, 10, 18 packed fields of 64 bits, from the lowest bit:
///         literals 20, bytes of literals 20, matches 20, bits of literals 3 (less 7)
///         states of literals 4 x 10, bytes of matches 20, bits of matches 3 (less 7)
///         header size 32, states of L, M and D 10 each
///       20 frequencies of L, M, D and literals in codes of 2 to 14 bits
/// bvx1: the same unpacked: 04 raw bytes  08 payload bytes  0C literals  10 matches  14 bytes of literals
///       18 bytes of matches  1C bits  20 states of literals (4 x 2)  28 bits  2C states (3 x 2)
///       32 frequencies (360 x 2), and 2 bytes of padding
/// ```
struct LzfseBlock {
    private static let packedHeaderBytes = 32
    private static let frequenciesStart = 0x32
    private static let plainHeaderBytes = 772

    var literalCount: Int
    var matchCount: Int
    /// The ends of the literals' bits, and of the matches' bits after them (``end``): both are read
    /// backwards.
    var literalsEnd: Int
    var end: Int
    /// The number of unused bits of the last byte, as a negative number.
    var literalBits: Int
    var matchBits: Int
    var literalStates: [Int]
    /// The initial states of L, M and D.
    var states: [Int]
    var frequencies: [Int]

    /// `nil` when the header is damaged or its payload exceeds the input.
    init?(packed input: RawSpan, at offset: Int) {
        guard let fields: UInt64 = input.littleEndian(at: offset + 8),
            let middle: UInt64 = input.littleEndian(at: offset + 16),
            let last: UInt64 = input.littleEndian(at: offset + 24)
        else { return nil }
        func field(_ word: UInt64, _ shift: UInt64, _ bits: UInt64) -> Int {
            Int(word >> shift & (1 << bits - 1))
        }
        literalCount = field(fields, 0, 20)
        matchCount = field(fields, 40, 20)
        literalBits = field(fields, 60, 3) - 7
        matchBits = field(middle, 60, 3) - 7
        literalStates = [0, 10, 20, 30].map { field(middle, $0, 10) }
        states = [32, 42, 52].map { field(last, $0, 10) }
        let headerEnd = offset + field(last, 0, 32)
        literalsEnd = headerEnd + field(fields, 20, 20)
        end = literalsEnd + field(middle, 40, 20)
        let tables = offset + Self.packedHeaderBytes
        guard headerEnd >= tables, end <= input.byteCount,
            let frequencies = Self.unpack(input.extracting(tables..<headerEnd))
        else { return nil }
        self.frequencies = frequencies
        guard isSound else { return nil }
    }

    /// `nil` when the header is damaged or its payload exceeds the input.
    init?(plain input: RawSpan, at offset: Int) {
        guard let header = input.part(offset..<offset + Self.plainHeaderBytes) else { return nil }
        func number(_ place: Int) -> Int { Int((header.littleEndian(at: place) ?? 0) as UInt32) }
        func half(_ place: Int) -> Int { Int((header.littleEndian(at: place) ?? 0) as UInt16) }
        func signed(_ place: Int) -> Int { Int(Int32(truncatingIfNeeded: number(place))) }
        literalCount = number(0x0C)
        matchCount = number(0x10)
        literalBits = signed(0x1C)
        matchBits = signed(0x28)
        literalStates = [0x20, 0x22, 0x24, 0x26].map(half)
        states = [0x2C, 0x2E, 0x30].map(half)
        frequencies = (0..<LzfseAlphabet.symbols).map { half(Self.frequenciesStart + $0 * 2) }
        literalsEnd = offset + Self.plainHeaderBytes + number(0x14)
        end = literalsEnd + number(0x18)
        guard end <= input.byteCount, isSound else { return nil }
    }

    private var isSound: Bool {
        literalCount <= LzfseAlphabet.maximumLiterals && literalCount % 4 == 0
            && matchCount <= LzfseAlphabet.maximumMatches && -7...0 ~= literalBits && -7...0 ~= matchBits
    }

    /// Unpacks the frequencies, lowest bits first; all zero for no bytes at all.
    private static func unpack(_ bytes: RawSpan) -> [Int]? {
        var frequencies = [Int](repeating: 0, count: LzfseAlphabet.symbols)
        guard bytes.byteCount > 0 else { return frequencies }
        var bits: UInt32 = 0
        var count = 0
        var read = 0
        for symbol in frequencies.indices {
            while count <= 24, let byte: UInt8 = bytes.littleEndian(at: read) {
                bits |= UInt32(byte) << UInt32(count)
                count += 8
                read += 1
            }
            let (frequency, used) = frequency(bits)
            guard used <= count else { return nil }
            frequencies[symbol] = frequency
            bits >>= UInt32(used)
            count -= used
        }
        return count < 8 && read == bytes.byteCount ? frequencies : nil
    }

    /// The frequency whose code begins at the lowest bit, and the length of the code in bits: `x0` and `x01`
    /// for 0 to 3, `xx011` for 4 to 7, `xxxx0111` from 8 and `xxxxxxxxxx1111` from 24 on.
    private static func frequency(_ bits: UInt32) -> (Int, Int) {
        switch bits & 15 {
        case 15: (24 + Int(bits >> 4 & 0x3FF), 14)
        case 7: (8 + Int(bits >> 4 & 0xF), 8)
        case 3, 11: (4 + Int(bits >> 3 & 3), 5)
        case 1, 5, 9, 13: (2 + Int(bits >> 2 & 1), 3)
        default: (Int(bits >> 1 & 1), 2)
        }
    }
}
