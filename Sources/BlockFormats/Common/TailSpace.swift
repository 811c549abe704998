import BlockCore

/// The end of a file whose format keeps no list of free space.
///
/// What a failed request took is taken again first; where nothing lies behind it, the end of the file comes
/// back, and is cut off when the image is closed. Bytes. Not thread-safe: the driver's lock guards it.
struct TailSpace {
    /// Space between other data that no entry refers to.
    struct Gap {
        var range: Range<Int>
        /// The guest bytes for which it was taken, where they read as zeroes; `nil` where they may not.
        var guest: Int?
    }

    /// Where the used part of the file ends.
    private(set) var end: Int
    private(set) var gaps: [Gap] = []
    /// Whether the file may be longer than ``end`` because of what was given back.
    private var isTooLong = false

    init(end: Int) { self.end = end }

    /// Takes `count` bytes at a multiple of `unit`, at the end from `floor` on; `nil` when they would reach
    /// beyond `limit`.
    mutating func take(_ count: Int, unit: Int, floor: Int = 0, limit: Int) -> Int? {
        for index in gaps.indices {
            guard let place = gaps[index].range.lowerBound.roundedUp(to: unit) else { continue }
            let (stop, overflow) = place.addingReportingOverflow(count)
            guard !overflow, stop <= gaps[index].range.upperBound else { continue }
            // What lies before an aligned place stays unused; that is less than a unit.
            gaps[index].guest = gaps[index].guest.map { $0 + stop - gaps[index].range.lowerBound }
            gaps[index].range = stop..<gaps[index].range.upperBound
            if gaps[index].range.isEmpty { gaps.remove(at: index) }
            return place
        }
        guard let place = max(end, floor).roundedUp(to: unit) else { return nil }
        let (stop, overflow) = place.addingReportingOverflow(count)
        guard !overflow, stop <= limit else { return nil }
        end = stop
        return place
    }

    /// Notes that the file was found to be so long.
    mutating func reach(_ length: Int) {
        if length > end { end = length }
    }

    /// Gives back what no entry refers to.
    ///
    /// - Parameter guest: the guest bytes for which it was taken, if they read as zeroes as long as nothing
    ///   is stored for them.
    mutating func giveBack(_ range: Range<Int>, guest: Int? = nil) {
        if range.isEmpty { return }
        gaps.append(Gap(range: range, guest: guest))
        while let index = gaps.firstIndex(where: { $0.range.upperBound == end }) {
            end = gaps.remove(at: index).range.lowerBound
            isTooLong = true
        }
    }

    /// Hands over the gaps that can become holes of guest bytes that read as zeroes: then something refers
    /// to them.
    mutating func takeZeroGaps() -> [(range: Range<Int>, guest: Int)] {
        let found = gaps.compactMap { gap in gap.guest.map { (range: gap.range, guest: $0) } }
        gaps.removeAll { $0.guest != nil }
        return found
    }

    /// Cuts the file off where its used part ends. Where that fails, the file stays longer.
    mutating func trim(_ file: BlockNode) {
        guard isTooLong, let length = try? file.length() else { return }
        isTooLong = false
        if length > end { try? file.resize(to: end) }
    }
}
