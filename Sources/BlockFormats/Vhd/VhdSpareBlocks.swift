/// Block places without a reference: left by a crash, or given back. They are granted first.
struct VhdSpareBlocks {
    private var gaps: [Range<Int>] = []
    private var returned: [(place: Int, block: Int)] = []

    init(gaps: [Range<Int>] = []) { self.gaps = gaps.reversed() }

    mutating func take(_ header: VhdHeader) -> Int? {
        if let last = returned.popLast() { return last.place }
        while let gap = gaps.popLast() {
            let place = header.blockPlace(from: gap.lowerBound)
            let end = place + header.strideBytes
            if end > gap.upperBound { continue }
            if end < gap.upperBound { gaps.append(end..<gap.upperBound) }
            return place
        }
        return nil
    }

    mutating func giveBack(_ place: Int, for block: Int) { returned.append((place, block)) }

    /// Removes a place that was given back and ends at `end`. `false` when there is none.
    mutating func takeLast(endingAt end: Int, _ header: VhdHeader) -> Bool {
        guard let index = returned.firstIndex(where: { $0.place + header.strideBytes == end }) else {
            return false
        }
        returned.remove(at: index)
        return true
    }

    /// Removes and returns the places that were given back, with the blocks for which they were taken.
    mutating func takeReturned() -> [(place: Int, block: Int)] {
        defer { returned = [] }
        return returned
    }
}
