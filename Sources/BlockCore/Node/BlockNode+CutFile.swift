import Synchronization

/// What the bytes are that an image's tables place behind the end of one of its files.
public enum ShortFileRule: Sendable, Equatable {
    /// Zeroes: the file may be any length, such as a raw disk's.
    case zeroes
    /// Zeroes in the unit of this many bytes in which the file ends: a writer may leave out the last unit's
    /// rest. Units that begin at the end or behind it are lost.
    case lastUnitMayBeShort(unitBytes: Int)
    /// Lost: writers of the format store units whole.
    case lost

    /// One past the last byte that can be read of a file of `length` bytes.
    func readableEnd(_ length: Int) -> Int {
        switch self {
        case .zeroes: Int.max
        case .lastUnitMayBeShort(let unit): length.roundedUp(to: unit) ?? Int.max
        case .lost: length
        }
    }
}

/// Files that end before what their image's tables place in them: incomplete downloads, and copies that ran
/// out of space. Their lost bytes are errors, never zeroes.
extension BlockNode {
    /// The most runs that are looked at to find out how many bytes are missing.
    private static let runsAtMost = 1 << 20
    /// How far a place of the disk whose run cannot be looked up is passed over, in bytes.
    private static let unmappedBytes = 1 << 20

    /// How many of the bytes of `extent` its file has, or a short file may leave out. Only data can be cut.
    ///
    /// - Throws: `corrupt` for a child that the image does not have; what asking for the length throws.
    public func readableCount(of extent: Extent) throws(BlockError) -> Int {
        if let filter { return try filter.child.readableCount(of: extent) }
        guard case .data(let hostOffset) = extent.status, let driver = format else { return extent.length }
        return try readableCount(hostOffset, extent.length, extent.child, driver)
    }

    /// The same for `count` bytes from `hostOffset` of a child on. Asks the system only for bytes behind
    /// every length that the file was seen to have.
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

    /// How many of `count` bytes from `hostOffset` on this file has.
    ///
    /// - Throws: what asking for the length throws.
    public func storedCount(at hostOffset: Int, count: Int) throws(BlockError) -> Int {
        try readableCount(hostOffset, count, .lost)
    }

    /// Refuses bytes of this file that are lost. For drivers that read encoded data by themselves.
    ///
    /// - Parameter rule: what the image's format makes of a short file.
    /// - Throws: `corrupt` with the number of bytes that are missing up to the end of these.
    public func requireStored(
        at hostOffset: Int, count: Int, rule: ShortFileRule = .lost
    ) throws(BlockError) {
        guard try readableCount(hostOffset, count, rule) < count else { return }
        throw try cutError(end: hostOffset + count, at: hostOffset)
    }

    /// The error for something that this file should have up to `end`, in bytes, and has not.
    ///
    /// - Parameters:
    ///   - what: what is cut off; `nil` for data of the disk.
    ///   - atLeast: whether more may be missing than up to `end`.
    public func cutError(
        _ what: String? = nil, end: Int, at offset: Int, atLeast: Bool = false
    ) throws(BlockError) -> BlockError {
        let length = try length()
        let subject = what.map { "\($0) is beyond the end of the file, which" } ?? "The file"
        let missing = max(0, end - length)
        // Behind one thing that is cut off there may have been others.
        var error = BlockError(
            .corrupt,
            "\(subject) is cut short: it ends after \(length) bytes, and "
                + "\(atLeast || what != nil ? "at least " : "")\(missing) bytes are missing",
            path: filename, offset: offset)
        error.missingBytes = missing
        return error
    }

    /// The error for a run of data that is lost, with the number of bytes that the whole disk lacks.
    func cutError(_ hostOffset: Int, _ count: Int, _ child: Int) throws(BlockError) -> BlockError {
        let file = children[child]
        let known = state.withLock { $0.storedEnds[child] }
        let found = known ?? storedEnd(inChild: child)
        if known == nil { state.withLock { $0.storedEnds[child] = found } }
        return try file.cutError(
            end: max(found.end, found.wholeEnd, hostOffset + count), at: hostOffset,
            atLeast: !found.isExact)
    }

    /// Refuses to change an image of which a file is cut: the lost bytes would become zeroes that pass for
    /// the disk's once the file is longer again.
    ///
    /// - Throws: `corrupt`.
    /// - Complexity: that of walking all runs of the disk, where ``FormatDriver/mayBeCut`` asks for it.
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

    /// Whether a file of this image is cut: the error that reading what is lost would give, or `nil`.
    ///
    /// - Throws: what reading throws.
    /// - Complexity: as ``refuseIfCut()``.
    public func findCut() throws(BlockError) -> BlockError? {
        if let filter { return try filter.child.findCut() }
        guard let driver = format, try driver.mayBeCut() else { return nil }
        return try lookForCut()
    }

    /// Whether encoded data of this layer at `offset`, up to `count` bytes of the disk, is not whole in its
    /// file.
    ///
    /// - Throws: what looking it up throws.
    /// - Complexity: that of looking at every encoded unit, where ``FormatDriver/mayBeCut`` asks for it.
    public func lacksEncoded(at offset: Int, count: Int) throws(BlockError) -> Bool {
        if let filter { return try filter.child.lacksEncoded(at: offset, count: count) }
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

    /// The same, whatever the driver thinks of it.
    ///
    /// - Throws: what reading throws.
    /// - Complexity: that of walking all runs of the disk.
    public func lookForCut() throws(BlockError) -> BlockError? {
        if let filter { return try filter.child.lookForCut() }
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

    /// One past the last byte of a child where the tables place data of the disk, as far as they can be read.
    struct StoredEnd: Sendable {
        var end = 0
        /// The same for data and tables that are of no use unless they are whole.
        var wholeEnd = 0
        /// Whether all runs were looked at.
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
    /// - Returns: how many bytes of the disk were looked at.
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

/// Where an encoded unit of an image is kept.
public struct EncodedPlace: Sendable {
    /// One past the last byte of the file without which it cannot be read.
    public var hostEnd: Int
    /// How many bytes of the disk it is, from the offset that was asked for.
    public var count: Int

    public init(hostEnd: Int, count: Int) {
        self.hostEnd = hostEnd
        self.count = count
    }
}
