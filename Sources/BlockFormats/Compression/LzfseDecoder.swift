import BlockCore

/// Decodes compressed blocks of LZFSE: tabled asymmetric numeral systems (FSE), read backwards. Its tables
/// and its buffer of literals are reused for each block.
struct LzfseDecoder {
    private var literals = [UInt8](repeating: 0, count: LzfseAlphabet.maximumLiterals)
    private var literalTable = [LzfseSymbol](repeating: LzfseSymbol(), count: LzfseAlphabet.literalStates)
    private var literalLengths = LzfseValueTable(
        states: LzfseAlphabet.lengthStates, extraBits: LzfseAlphabet.literalLengthBits)
    private var matchLengths = LzfseValueTable(
        states: LzfseAlphabet.lengthStates, extraBits: LzfseAlphabet.matchLengthBits)
    private var distances = LzfseValueTable(
        states: LzfseAlphabet.distanceStates, extraBits: LzfseAlphabet.distanceBits)

    /// Fills `output` from `start` to its end; matches may reach back before it.
    ///
    /// - Returns: `false` when the block is damaged.
    mutating func decode(
        _ block: LzfseBlock, _ input: RawSpan, into output: inout MutableRawSpan, from start: Int
    ) -> Bool {
        makeTables(block.frequencies) && decodeLiterals(block, input)
            && execute(block, input, into: &output, from: start)
    }

    private mutating func makeTables(_ frequencies: [Int]) -> Bool {
        let match = LzfseAlphabet.lengthSymbols
        let distance = match + LzfseAlphabet.lengthSymbols
        let literal = distance + LzfseAlphabet.distanceSymbols
        return literalLengths.fill(frequencies[0..<match])
            && matchLengths.fill(frequencies[match..<distance])
            && distances.fill(frequencies[distance..<literal])
            && LzfseSymbol.fill(&literalTable, frequencies[literal...])
    }

    /// Decodes four interleaved streams with one state each.
    private mutating func decodeLiterals(_ block: LzfseBlock, _ input: RawSpan) -> Bool {
        guard block.literalCount > 0 else { return true }
        guard var bits = BackwardBits(input, end: block.literalsEnd, bits: block.literalBits) else {
            return false
        }
        let mask = LzfseAlphabet.literalStates - 1
        var states = (
            block.literalStates[0], block.literalStates[1], block.literalStates[2], block.literalStates[3]
        )
        func next(_ state: inout Int, _ bits: inout BackwardBits) -> UInt8 {
            let entry = literalTable[state & mask]
            state = Int(entry.base) + bits.take(Int(entry.bits))
            return UInt8(truncatingIfNeeded: entry.symbol)
        }
        for index in stride(from: 0, to: block.literalCount, by: 4) {
            guard bits.refill(input) else { return false }
            literals[index] = next(&states.0, &bits)
            literals[index + 1] = next(&states.1, &bits)
            literals[index + 2] = next(&states.2, &bits)
            literals[index + 3] = next(&states.3, &bits)
        }
        return true
    }

    private mutating func execute(
        _ block: LzfseBlock, _ input: RawSpan, into output: inout MutableRawSpan, from start: Int
    ) -> Bool {
        var written = start
        guard block.matchCount > 0 else { return written == output.byteCount }
        guard var bits = BackwardBits(input, end: block.end, bits: block.matchBits) else { return false }
        var states = (block.states[0], block.states[1], block.states[2])
        var literal = 0
        var distance = 0
        for _ in 0..<block.matchCount {
            // Refills to at least 56 bits; three symbols take at most 54.
            guard bits.refill(input) else { return false }
            let literalLength = literalLengths.next(&states.0, &bits)
            let matchLength = matchLengths.next(&states.1, &bits)
            let newDistance = distances.next(&states.2, &bits)
            if newDistance > 0 { distance = newDistance }
            guard literalLength <= block.literalCount - literal,
                output.append(literals.span.bytes, literal..<literal + literalLength, at: written)
            else { return false }
            literal += literalLength
            written += literalLength
            guard
                matchLength == 0
                    || output.repeatBytes(at: written, distance: distance, count: matchLength)
            else { return false }
            written += matchLength
        }
        return written == output.byteCount
    }
}

/// One state of a table: its symbol and the next state.
struct LzfseSymbol {
    var symbol: UInt16 = 0
    /// The number of bits that are read and added to the base.
    var bits: UInt16 = 0
    var base: UInt16 = 0

    /// Gives every symbol as many states as its frequency. `false` when the frequencies exceed the number of
    /// states.
    ///
    /// The predecessor states of a symbol are the numbers from its frequency f to 2f - 1. They are shifted
    /// left until they are states again, the smaller ones by one bit more.
    static func fill(_ table: inout [LzfseSymbol], _ frequencies: ArraySlice<Int>) -> Bool {
        guard frequencies.reduce(0, +) <= table.count else { return false }
        var state = 0
        for (symbol, frequency) in frequencies.enumerated() where frequency > 0 {
            let bits = frequency.leadingZeroBitCount - table.count.leadingZeroBitCount
            let withAllBits = 2 * table.count >> bits - frequency
            for index in 0..<frequency {
                let isLong = index < withAllBits
                table[state] = LzfseSymbol(
                    symbol: UInt16(symbol), bits: UInt16(isLong ? bits : bits - 1),
                    base: UInt16(
                        isLong
                            ? (frequency + index) << bits - table.count
                            : (index - withAllBits) << (bits - 1)))
                state += 1
            }
        }
        // Only a damaged stream reaches states without a symbol.
        for rest in state..<table.count { table[rest] = LzfseSymbol() }
        return true
    }
}

/// A table whose symbols stand for numbers.
struct LzfseValueTable {
    private struct Entry {
        /// Bits for the next state and the number together, and for the number alone.
        var bits = 0
        var extraBits = 0
        var base = 0
        var nextState = 0
    }

    private let extraBits: [Int]
    private let bases: [Int]
    private var symbols: [LzfseSymbol]
    private var entries: [Entry]

    init(states: Int, extraBits: [Int]) {
        self.extraBits = extraBits
        var bases = [0]
        for bits in extraBits.dropLast() { bases.append(bases[bases.count - 1] + 1 << bits) }
        self.bases = bases
        symbols = [LzfseSymbol](repeating: LzfseSymbol(), count: states)
        entries = [Entry](repeating: Entry(), count: states)
    }

    mutating func fill(_ frequencies: ArraySlice<Int>) -> Bool {
        guard LzfseSymbol.fill(&symbols, frequencies) else { return false }
        for (state, symbol) in symbols.enumerated() {
            let extra = extraBits[Int(symbol.symbol)]
            entries[state] = Entry(
                bits: Int(symbol.bits) + extra, extraBits: extra, base: bases[Int(symbol.symbol)],
                nextState: Int(symbol.base))
        }
        return true
    }

    /// The number of this state; advances to the next state.
    @inline(__always)
    func next(_ state: inout Int, _ bits: inout BackwardBits) -> Int {
        let entry = entries[state & (entries.count - 1)]
        let taken = bits.take(entry.bits)
        state = entry.nextState + taken >> entry.extraBits
        return entry.base + taken & (1 << entry.extraBits - 1)
    }
}

/// Reads bits from the end of their bytes to the start.
///
/// Like the format's reference decoder, it may read the bytes before them, but never outside the input.
struct BackwardBits {
    private var bits: UInt64
    private var count: Int
    /// The start of the bytes that were read last.
    private var position: Int

    /// - Parameters:
    ///   - end: the end of the bytes.
    ///   - bits: minus the number of unused bits of the last byte, which must be zero.
    init?(_ input: RawSpan, end: Int, bits unused: Int) {
        guard let word: UInt64 = input.littleEndian(at: end - 8) else { return nil }
        if unused == 0 {
            bits = word >> 8
            count = 56
            position = end - 7
        } else {
            bits = word
            count = 64 + unused
            position = end - 8
        }
        if bits >> UInt64(count) != 0 { return nil }
    }

    /// Refills to at least 56 bits. `false` before the start of the input.
    @inline(__always)
    mutating func refill(_ input: RawSpan) -> Bool {
        let wanted = (63 - count) & ~7
        guard wanted > 0 else { return true }
        position -= wanted / 8
        guard let word: UInt64 = input.littleEndian(at: position) else { return false }
        bits = bits << UInt64(wanted) | word & (1 << UInt64(wanted) - 1)
        count += wanted
        return true
    }

    /// The next `wanted` bits; the caller has refilled before.
    @inline(__always)
    mutating func take(_ wanted: Int) -> Int {
        count -= wanted
        let value = bits >> UInt64(truncatingIfNeeded: count)
        bits &= 1 << UInt64(truncatingIfNeeded: count) - 1
        return Int(truncatingIfNeeded: value)
    }
}
