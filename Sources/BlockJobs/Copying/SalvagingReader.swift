import BlockCore

/// Reads a source, and past read errors where that is asked for. Thread-safe.
struct SalvagingReader: Sendable {
    /// The smallest range that is given up as lost, in bytes.
    static let sectorBytes = 512

    let source: SourceDisk
    let onUnreadable: (@Sendable (Range<Int>, BlockError) -> Void)?

    /// Fills `buffer` from `offset`, with zeroes for ranges that are lost.
    ///
    /// - Throws: the read error, unless ``onUnreadable`` is set.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        do throws(BlockError) {
            try source.read(into: &buffer, at: offset)
        } catch {
            guard let onUnreadable else { throw error.prefixed("error while reading at byte \(offset)") }
            var lost: (range: Range<Int>, error: BlockError)?
            salvageRuns(into: &buffer, at: offset, error) { range, error in
                if let earlier = lost, earlier.range.upperBound == range.lowerBound {
                    lost = (earlier.range.lowerBound..<range.upperBound, earlier.error)
                    return
                }
                if let earlier = lost { onUnreadable(earlier.range, earlier.error) }
                lost = (range, error)
            }
            if let lost { onUnreadable(lost.range, lost.error) }
        }
    }

    /// Reads run by run a range that could not be read as a whole. Runs that are lost according to the map,
    /// or that cannot be looked up, are not tried sector by sector.
    private func salvageRuns(
        into buffer: inout MutableRawSpan, at offset: Int, _ error: BlockError,
        lost: (Range<Int>, BlockError) -> Void
    ) {
        var done = 0
        while done < buffer.byteCount {
            let left = buffer.byteCount - done
            var (count, error, isLost) = (min(left, source.bytesLeftInUnit(at: offset + done)), error, true)
            do throws(BlockError) {
                let run = try source.status(at: offset + done, limit: left)
                (count, isLost) = (min(left, max(1, run.length)), run.isLost)
            } catch let failure { error = failure }
            var part = buffer.slice(done..<done + count)
            if isLost {
                part.fill()
                lost(offset + done..<offset + done + count, error)
            } else {
                salvage(into: &part, at: offset + done, lost: lost)
            }
            done += count
        }
    }

    /// Reads a range, and its halves where that fails, down to single sectors, which are lost. Ranges are
    /// reported in ascending order.
    private func salvage(
        into buffer: inout MutableRawSpan, at offset: Int, lost: (Range<Int>, BlockError) -> Void
    ) {
        do throws(BlockError) {
            try source.read(into: &buffer, at: offset)
        } catch {
            let count = buffer.byteCount
            guard count > Self.sectorBytes else {
                buffer.fill()
                return lost(offset..<offset + count, error)
            }
            let half = max(Self.sectorBytes, (count / 2).roundedDown(to: Self.sectorBytes))
            var low = buffer.slice(0..<half)
            salvage(into: &low, at: offset, lost: lost)
            var high = buffer.slice(half..<count)
            salvage(into: &high, at: offset + half, lost: lost)
        }
    }
}
