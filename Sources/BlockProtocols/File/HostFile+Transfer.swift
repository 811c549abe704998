import BlockCore
import Synchronization
import SystemPackage

/// Reading and writing. With direct I/O, unaligned requests use an aligned buffer.
extension HostFile {
    /// The most bytes of a bounce buffer; a multiple of every alignment.
    private static let bounceBytes = Int.mib(1)

    /// Fills all of `buffer`; bytes past the end are zeroes.
    func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let count = buffer.byteCount
        try checkRange(offset, count)
        let straight = alignment == 1 || (isAligned(offset, count) && buffer.isAligned(to: alignment))
        guard straight else { return try readBounced(into: &buffer, at: offset) }
        try fill(&buffer, at: offset)
    }

    /// Stores all of `bytes`, making the file longer if needed.
    func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let end = try checkRange(offset, bytes.byteCount)
        if end <= knownLength.load(ordering: .relaxed) && isAligned(offset, bytes.byteCount) {
            return try writeAligned(bytes, at: offset)
        }
        gate.enter()
        defer { gate.leave() }
        prepareToGrow(from: offset, to: end)
        try writeGated(bytes, at: offset)
    }

    /// Stores all of `bytes`, for a caller that holds the gate or writes whole blocks inside the file.
    func writeGated(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if isAligned(offset, bytes.byteCount) {
            try writeAligned(bytes, at: offset)
        } else {
            try writeEdges(bytes, at: offset)
        }
        noteLength(offset + bytes.byteCount)
    }

    /// Raises the lower bound of the file's length to `length` bytes.
    func noteLength(_ length: Int) { _ = knownLength.max(length, ordering: .relaxed) }

    /// Whether a request covers whole blocks only.
    func isAligned(_ offset: Int, _ count: Int) -> Bool { (offset | count) & (alignment - 1) == 0 }

    /// Checks that the range does not overflow.
    ///
    /// - Returns: the end of the range.
    @discardableResult
    func checkRange(_ offset: Int, _ count: Int) throws(BlockError) -> Int {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard offset >= 0, count >= 0, !overflow else {
            throw .system(.fileTooLarge, path: path, offset: offset)
        }
        return end
    }

    /// Reads directly into the caller's buffer.
    private func fill(_ buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let got: Int
        do throws(Errno) {
            got = try PositionedIO.read(
                descriptor, into: &buffer, at: offset, unit: alignment, through: queue)
        } catch {
            throw .system(error, path: path, offset: offset)
        }
        if got < buffer.byteCount {
            var tail = buffer.slice(got..<buffer.byteCount)
            tail.fill()
        }
    }

    private func readBounced(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let bounce = AlignedBuffer(count: bounceSize(offset, buffer.byteCount))
        var done = 0
        while done < buffer.byteCount {
            let start = (offset + done).roundedDown(to: alignment)
            let skip = offset + done - start
            let count = min(buffer.byteCount - done, bounce.count - skip)
            var part = bounce.mutableBytes(
                0..<min(bounce.count, (skip + count).roundedUp(to: alignment) ?? 0))
            try fill(&part, at: start)
            buffer.copy(from: bounce.bytes(skip..<skip + count), at: done)
            done += count
        }
    }

    /// Writes whole blocks, from memory that may be unaligned.
    private func writeAligned(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        guard alignment > 1, !bytes.isAligned(to: alignment) else { return try put(bytes, at: offset) }
        let bounce = AlignedBuffer(count: bounceSize(offset, bytes.byteCount))
        var done = 0
        while done < bytes.byteCount {
            let count = min(bytes.byteCount - done, bounce.count)
            var part = bounce.mutableBytes(0..<count)
            part.copy(from: bytes.extracting(done..<done + count))
            try put(bounce.bytes(0..<count), at: offset + done)
            done += count
        }
    }

    /// Writes parts of blocks: reads the blocks, changes them and writes them back. The caller holds the
    /// gate.
    private func writeEdges(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let before = try reporting(path) { () throws(Errno) in try FileStatus.length(descriptor) }
        let bounce = AlignedBuffer(count: bounceSize(offset, bytes.byteCount))
        var done = 0
        var written = 0
        while done < bytes.byteCount {
            let start = (offset + done).roundedDown(to: alignment)
            let skip = offset + done - start
            let count = min(bytes.byteCount - done, bounce.count - skip)
            let whole = min(bounce.count, (skip + count).roundedUp(to: alignment) ?? 0)
            try fillEdges(of: bounce, from: skip, to: skip + count, whole: whole, at: start)
            var part = bounce.mutableBytes(skip..<skip + count)
            part.copy(from: bytes.extracting(done..<done + count))
            try put(bounce.bytes(0..<whole), at: start)
            done += count
            written = start + whole
        }
        try dropPadding(to: max(before, offset + bytes.byteCount), written: written)
    }

    /// Reads the first and the last block of `bounce`, if the new bytes cover them only in part.
    private func fillEdges(
        of bounce: AlignedBuffer, from: Int, to: Int, whole: Int, at start: Int
    ) throws(BlockError) {
        let last = whole - alignment
        if from > 0 || (last == 0 && to < whole) {
            var first = bounce.mutableBytes(0..<alignment)
            try fill(&first, at: start)
        }
        if last > 0 && to < whole {
            var block = bounce.mutableBytes(last..<whole)
            try fill(&block, at: start + last)
        }
    }

    /// Cuts off the padding of the last block.
    private func dropPadding(to length: Int, written: Int) throws(BlockError) {
        guard written > length, kind == .regular else { return }
        try reporting(path, at: length) { () throws(Errno) in try FileStatus.setLength(descriptor, length) }
    }

    private func put(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        do throws(Errno) { try PositionedIO.write(descriptor, bytes, at: offset, through: queue) } catch {
            throw .system(error, path: path, offset: offset)
        }
    }

    private func bounceSize(_ offset: Int, _ count: Int) -> Int {
        let span = offset % alignment + min(count, Self.bounceBytes)
        return max(alignment, min(Self.bounceBytes, span.roundedUp(to: alignment) ?? Self.bounceBytes))
    }
}
