import BlockCore

/// The file as it reads after a replay of the log, without changing it.
struct VhdxView: Sendable {
    let file: BlockNode
    var patches = VhdxPatches()

    init(_ file: BlockNode) { self.file = file }

    /// The bytes at `offset`; zeroes past the end of the file.
    func read(at offset: Int, count: Int) throws(BlockError) -> [UInt8] {
        var bytes = try file.readBytes(at: offset, count: count)
        if !patches.isEmpty {
            var elements = bytes.mutableSpan
            var span = elements.mutableBytes
            patches.apply(to: &span, at: offset)
        }
        return bytes
    }

    /// The length of the file.
    func length() throws(BlockError) -> Int { max(try file.length(), patches.fileBytes) }
}

/// The changes of a log to a file, in memory.
struct VhdxPatches: Sendable {
    /// Pages of 4096 bytes by their offsets.
    private var pages: [Int: [UInt8]] = [:]
    /// Ranges of zeroes; a page overrides them.
    private var zeroes: [Range<Int>] = []
    /// The least length of the file after the replay, in bytes.
    var fileBytes = 0

    var isEmpty: Bool { pages.isEmpty && zeroes.isEmpty }

    /// - Throws: `limit` when the changes need too much memory.
    mutating func setPage(_ bytes: [UInt8], at offset: Int) throws(BlockError) {
        guard pages.count < Vhdx.Limit.patchBytes / Vhdx.pageBytes else { throw Self.tooMuch }
        pages[offset] = bytes
    }

    /// - Throws: `limit` when the changes need too much memory.
    mutating func setZero(_ range: Range<Int>) throws(BlockError) {
        pages = pages.filter { !range.contains($0.key) }
        if let last = zeroes.last, last.upperBound == range.lowerBound {
            zeroes[zeroes.count - 1] = last.lowerBound..<range.upperBound
            return
        }
        guard zeroes.count < Vhdx.Limit.zeroPatches else { throw Self.tooMuch }
        zeroes.append(range)
    }

    private static let tooMuch = BlockError(
        .limit, "The VHDX log holds too much to be replayed in memory; open the image for writing")

    /// Whether any change overlaps `range`.
    func overlap(_ range: Range<Int>) -> Bool {
        if zeroes.contains(where: { $0.overlaps(range) }) { return true }
        if range.count / Vhdx.pageBytes > pages.count {
            return pages.keys.contains { $0 < range.upperBound && $0 + Vhdx.pageBytes > range.lowerBound }
        }
        return stride(
            from: range.lowerBound.roundedDown(to: Vhdx.pageBytes), to: range.upperBound, by: Vhdx.pageBytes
        ).contains { pages[$0] != nil }
    }

    /// Applies the changes to bytes that were read at `offset`.
    func apply(to bytes: inout MutableRawSpan, at offset: Int) {
        let range = offset..<offset + bytes.byteCount
        for zero in zeroes where zero.overlaps(range) {
            let part = zero.clamped(to: range)
            var slice = bytes.slice(part.lowerBound - offset..<part.upperBound - offset)
            slice.fill()
        }
        for start in stride(
            from: offset.roundedDown(to: Vhdx.pageBytes), to: range.upperBound, by: Vhdx.pageBytes)
        {
            guard let page = pages[start] else { continue }
            let part = (start..<start + Vhdx.pageBytes).clamped(to: range)
            let source = page.span.bytes.extracting(part.lowerBound - start..<part.upperBound - start)
            bytes.copy(from: source, at: part.lowerBound - offset)
        }
    }
}
