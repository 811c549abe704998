import BlockCore

/// The end of a file whose format keeps no list of free space.
///
/// Space that a failed request gave back is granted again first. If it lies at the end, ``end`` moves back,
/// and the file is cut when the image is closed. All numbers are bytes. Not thread-safe: the driver's lock
/// guards it.
struct TailSpace {
    /// Space between other data that no entry refers to.
    struct Gap {
        var range: Range<Int>
        /// The guest offset for which it was taken, if the guest bytes there read as zeroes; `nil` if they
        /// may not.
        var guest: Int?
    }

    /// The end of the used part of the file.
    private(set) var end: Int
    private(set) var gaps: [Gap] = []
    /// Whether the file may be longer than ``end`` because space was given back.
    private var isTooLong = false

    init(end: Int) { self.end = end }

    /// Takes `count` bytes at a multiple of `unit`, from a gap or from the end (at `floor` or later); `nil`
    /// when they would reach beyond `limit`.
    mutating func take(_ count: Int, unit: Int, floor: Int = 0, limit: Int) -> Int? {
        for index in gaps.indices {
            guard let place = gaps[index].range.lowerBound.roundedUp(to: unit) else { continue }
            let (stop, overflow) = place.addingReportingOverflow(count)
            guard !overflow, stop <= gaps[index].range.upperBound else { continue }
            // The bytes before the aligned place stay unused; they are less than a unit.
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

    /// Moves ``end`` to the file's length if that is larger.
    mutating func reach(_ length: Int) {
        if length > end { end = length }
    }

    /// Gives back space that no entry refers to.
    ///
    /// - Parameter guest: the guest offset for which it was taken, if the guest bytes there read as zeroes
    ///   while they are unallocated.
    mutating func giveBack(_ range: Range<Int>, guest: Int? = nil) {
        if range.isEmpty { return }
        gaps.append(Gap(range: range, guest: guest))
        while let index = gaps.firstIndex(where: { $0.range.upperBound == end }) {
            end = gaps.remove(at: index).range.lowerBound
            isTooLong = true
        }
    }

    /// Removes and returns the gaps that can become the holes of guest bytes that read as zeroes; they are no
    /// leaks once linked.
    mutating func takeZeroGaps() -> [(range: Range<Int>, guest: Int)] {
        let found = gaps.compactMap { gap in gap.guest.map { (range: gap.range, guest: $0) } }
        gaps.removeAll { $0.guest != nil }
        return found
    }

    /// Cuts the file at the end of its used part. If that fails, the file stays longer.
    mutating func trim(_ file: BlockNode) {
        guard isTooLong, let length = try? file.length() else { return }
        isTooLong = false
        if length > end { try? file.resize(to: end) }
    }
}
