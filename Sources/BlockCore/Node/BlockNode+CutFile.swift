import Synchronization

/// The meaning of bytes that an image's tables place behind the end of one of its files.
public enum ShortFileRule: Sendable, Equatable {
    /// Zeroes: the file may have any length, as that of a raw disk may.
    case zeroes
    /// Zeroes in the unit, of `unitBytes` bytes, in which the file ends: writers of the format may leave out
    /// the rest of the last unit. Units that begin at the end or behind it are lost.
    case lastUnitMayBeShort(unitBytes: Int)
    /// Lost: writers of the format store units whole.
    case lost

    /// One past the last readable byte of a file of `length` bytes.
    func readableEnd(_ length: Int) -> Int {
        switch self {
        case .zeroes: Int.max
        case .lastUnitMayBeShort(let unit): length.roundedUp(to: unit) ?? Int.max
        case .lost: length
        }
    }
}

/// Files that are shorter than their image's tables need: incomplete downloads, and copies that ran out of
/// space. Their lost bytes are errors, never zeroes.
extension BlockNode {
    /// Limits the runs that are read to count the missing bytes.
    private static let runsAtMost = 1 << 20
    /// How many bytes of the disk are skipped where the run at an offset cannot be read.
    private static let unmappedBytes = Int.mib(1)

    /// How many bytes of `extent`, from its start, can be read: its file has them, or its format lets a short
    /// file leave them out.
    ///
    /// Only data can be cut.
    ///
    /// - Throws: `corrupt` for a child that the image does not have; `io`.
    public func readableCount(of extent: Extent) throws(BlockError) -> Int {
        if let shownChild { return try shownChild.readableCount(of: extent) }
        guard case .data(let hostOffset) = extent.status, let driver = format else { return extent.length }
        return try readableCount(hostOffset, extent.length, extent.child, driver)
    }

    /// The same for `count` bytes from `hostOffset` of a child on. Asks the system for the file's length only
    /// if the last known length is too small.
    @inline(__always)
    func readableCount(
        _ hostOffset: Int, _ count: Int, _ child: Int, _ driver: any FormatDriver
    ) throws(BlockError) -> Int {
        guard children.indices.contains(child) else {
            throw BlockError(.corrupt, "The image has no storage number \(child)", path: filename)
        }
        let seen = children[child].seenLength.load(ordering: .relaxed)
        if count <= seen, hostOffset <= seen - count { return count }
        return try children[child].readableCount(hostOffset, count, driver.shortFileRule(ofChild: child))
    }

    private func readableCount(
        _ hostOffset: Int, _ count: Int, _ rule: ShortFileRule
    ) throws(BlockError) -> Int {
        if rule == .zeroes { return count }
        let end = rule.readableEnd(try lengthCovering(hostOffset, count))
        return max(0, min(count, end - hostOffset))
    }

    /// How many of the `count` bytes at `hostOffset` are inside this file.
    ///
    /// - Throws: `io`.
    public func storedCount(at hostOffset: Int, count: Int) throws(BlockError) -> Int {
        try readableCount(hostOffset, count, .lost)
    }

    /// Refuses bytes of this file that are lost: for drivers that read encoded data themselves.
    ///
    /// - Parameter rule: the meaning, in the image's format, of bytes behind the end of the file.
    /// - Throws: `corrupt` with the number of bytes that are missing up to `hostOffset + count`; `io`.
    public func requireStored(
        at hostOffset: Int, count: Int, rule: ShortFileRule = .lost
    ) throws(BlockError) {
        guard try readableCount(hostOffset, count, rule) < count else { return }
        throw try cutError(end: hostOffset + count, at: hostOffset)
    }

    /// The error for bytes up to `end`, an offset in bytes, that this file should have and lacks.
    ///
    /// - Parameters:
    ///   - what: the part of the image that is cut off, for the message; `nil` for data of the disk.
    ///   - atLeast: whether bytes behind `end` may be missing too.
    /// - Throws: `io` when the file's length cannot be read.
    public func cutError(
        _ what: String? = nil, end: Int, at offset: Int, atLeast: Bool = false
    ) throws(BlockError) -> BlockError {
        let length = try length()
        let subject = what.map { "\($0) is beyond the end of the file, which" } ?? "The file"
        let missing = max(0, end - length)
        // Other parts may have been behind the one that is cut off, so the number is a minimum.
        var error = BlockError(
            .corrupt,
            "\(subject) is cut short: it ends after \(length) bytes, and "
                + "\(atLeast || what != nil ? "at least " : "")\(missing) bytes are missing",
            path: filename, offset: offset)
        error.missingBytes = missing
        return error
    }

    /// The error for a lost run of data, with the number of bytes that are missing for the whole disk.
    func cutError(_ hostOffset: Int, _ count: Int, _ child: Int) throws(BlockError) -> BlockError {
        let file = children[child]
        let known = state.withLock { $0.storedEnds[child] }
        let found = known ?? storedEnd(inChild: child)
        if known == nil { state.withLock { $0.storedEnds[child] = found } }
        return try file.cutError(
            end: max(found.end, found.wholeEnd, hostOffset + count), at: hostOffset,
            atLeast: !found.isExact)
    }

    /// Refuses to change an image whose file is cut: once the file grew again, the lost bytes would read as
    /// zeroes, like bytes of the disk.
    ///
    /// - Throws: `corrupt` for a cut file; `io`.
    /// - Complexity: O(*runs of the disk*), at most 2^20 of each child, when ``FormatDriver/mayBeCut()`` is
    ///   `true`.
    public func refuseIfCut() throws(BlockError) {
        guard let driver = format, try driver.mayBeCut() else { return }
        var found = try lookForCut()
        if found == nil, let file, let end = try driver.endOfHiddenData() {
            found = try file.cutError("Data of a snapshot", end: end, at: end)
        }
        guard var error = found else { return }
        error.message += "; it can be read, as far as it is there, but not written to"
        throw error
    }

    /// The error that reading lost bytes would give; `nil` when no file of this image is cut.
    ///
    /// - Throws: `io`, `corrupt`.
    /// - Complexity: as ``refuseIfCut()``.
    public func findCut() throws(BlockError) -> BlockError? {
        if let shownChild { return try shownChild.findCut() }
        guard let driver = format, try driver.mayBeCut() else { return nil }
        return try lookForCut()
    }

    /// Whether an encoded unit of this layer in the `count` bytes of the disk at `offset` is cut off by the
    /// end of its file.
    ///
    /// - Throws: `io`; `corrupt`.
    /// - Complexity: O(*runs and encoded units in the range*) when ``FormatDriver/mayBeCut()`` is `true`.
    public func lacksEncoded(at offset: Int, count: Int) throws(BlockError) -> Bool {
        if let shownChild { return try shownChild.lacksEncoded(at: offset, count: count) }
        guard let driver = format, try driver.mayBeCut() else { return false }
        var position = offset
        while position < offset + count {
            let extent = try layerExtent(at: position, limit: offset + count - position)
            guard case .encoded = extent.status, children.indices.contains(extent.child),
                let place = try driver.place(ofEncodedAt: position)
            else {
                position += extent.length
                continue
            }
            if try place.hostEnd > children[extent.child].length() { return true }
            position += max(1, min(place.count, extent.length))
        }
        return false
    }

    /// The same as ``findCut()``, without asking ``FormatDriver/mayBeCut()`` first.
    ///
    /// - Throws: `io`, `corrupt`.
    /// - Complexity: O(*runs of the disk*), at most 2^20 of each child.
    public func lookForCut() throws(BlockError) -> BlockError? {
        if let shownChild { return try shownChild.lookForCut() }
        guard let driver = format else { return nil }
        for (index, child) in children.enumerated() {
            let rule = driver.shortFileRule(ofChild: index)
            if rule == .zeroes { continue }
            let found = storedEnd(inChild: index)
            let length = try child.length()
            guard found.end > rule.readableEnd(length) || found.wholeEnd > length else { continue }
            let end = max(found.end, found.wholeEnd)
            return try child.cutError(end: end, at: end, atLeast: !found.isExact)
        }
        return nil
    }

    /// One past the last byte of a child in which the tables place data of the disk, as far as the tables can
    /// be read.
    struct StoredEnd: Sendable {
        var end = 0
        /// The same for data and tables that are useless unless they are whole.
        var wholeEnd = 0
        /// Whether all runs were read.
        var isExact = true
    }

    private func storedEnd(inChild child: Int) -> StoredEnd {
        var result = StoredEnd()
        guard let driver = format else { return result }
        let size = driver.virtualSize
        var (offset, looks) = (0, 0)
        while offset < size {
            looks += 1
            guard looks <= Self.runsAtMost else {
                result.isExact = false
                break
            }
            do throws(BlockError) {
                let extent = try driver.extent(at: offset, limit: size - offset)
                offset += try result.take(extent, at: offset, child, driver)
            } catch {
                result.isExact = false
                let own = children[child].filename
                if let missing = error.missingBytes, error.path?.isSameName(as: own) == true {
                    let length = (try? children[child].length()) ?? 0
                    result.wholeEnd = max(
                        result.wholeEnd, length.addingReportingOverflow(missing).partialValue)
                }
                offset += Self.unmappedBytes
            }
        }
        return result
    }
}

extension BlockNode.StoredEnd {
    /// - Returns: how many bytes of the disk `extent` or its encoded unit covers from `offset` on.
    fileprivate mutating func take(
        _ extent: Extent, at offset: Int, _ child: Int, _ driver: any FormatDriver
    ) throws(BlockError) -> Int {
        switch extent.status {
        case .data(let hostOffset) where extent.child == child:
            end = max(end, hostOffset.addingReportingOverflow(extent.length).partialValue)
        case .encoded where extent.child == child:
            guard let place = try driver.place(ofEncodedAt: offset) else { break }
            wholeEnd = max(wholeEnd, place.hostEnd)
            return max(1, min(place.count, extent.length))
        default: break
        }
        return max(1, extent.length)
    }
}

/// The place of an encoded unit in its file.
public struct EncodedPlace: Sendable {
    /// One past the last byte of the file that decoding the unit needs.
    public var hostEnd: Int
    /// How many bytes of the disk the unit holds, from the requested offset on.
    public var count: Int

    /// Both numbers are in bytes.
    public init(hostEnd: Int, count: Int) {
        self.hostEnd = hostEnd
        self.count = count
    }
}
