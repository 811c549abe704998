extension BlockNode {
    /// Fills `buffer` with the bytes at `offset`, in bytes, of this layer, of the backing chain, or zeroes.
    ///
    /// No alignment is needed.
    ///
    /// - Throws: `io`, also past the end of a disk and once the node is closed; `corrupt`; `unsupported`.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        var request = begin(.read, at: offset, count: buffer.byteCount)
        defer { end(request) }
        switch layer {
        case .storage(let driver):
            try passGate(.read, buffer.byteCount)
            try openStorage(driver).read(into: &buffer, at: offset)
        case .format(let driver):
            if settings.holdsImage, offset > driver.virtualSize - buffer.byteCount {
                try passGate(.read, buffer.byteCount)
                try readOld(into: &buffer, at: offset)
                return request.outcome = .done
            }
            let range = try checkedRange(offset, buffer.byteCount, of: driver)
            try passGate(.read, buffer.byteCount)
            if copiesOnRead { try copyUp(range, driver) }
            let ticket = beginReading(range)
            defer { endReading(ticket) }
            try checkOpen()
            // The disk may have shrunk while the request waited.
            _ = try checkedRange(offset, buffer.byteCount, of: driver)
            try readMapped(driver, into: &buffer, at: offset)
        case .filter(let driver): try read(through: driver, into: &buffer, at: offset)
        }
        request.outcome = .done
    }

    /// Begins a read. On a read-only node reads conflict only with reopening and closing, so counting them is
    /// enough: a counted read has no ticket, but `nil`.
    func beginReading(_ range: Range<Int>) -> Int? {
        if isReadOnly, requests.enter() {
            // The node may have become writable in between.
            if isReadOnly { return nil }
            requests.leave()
        }
        return requests.acquire(range, exclusive: false)
    }

    func endReading(_ ticket: Int?) {
        if let ticket { requests.release(ticket) } else { requests.leave() }
    }

    /// The `count` bytes at `offset` as an array: for small metadata.
    ///
    /// - Throws: as ``read(into:at:)``.
    /// - Complexity: O(*count*) in memory.
    public func readBytes(at offset: Int, count: Int) throws(BlockError) -> [UInt8] {
        try [UInt8](zeroed: count) { (bytes) throws(BlockError) in try read(into: &bytes, at: offset) }
    }

    /// Fills `buffer` with the guest's bytes from `offset` on, without bounds checks and tickets; bytes
    /// behind the end of the disk are zeroes.
    func readOld(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        switch layer {
        case .storage(let driver): try openStorage(driver).read(into: &buffer, at: offset)
        case .filter(let driver): try driver.read(into: &buffer, at: offset)
        case .format(let driver):
            let inside = max(0, min(buffer.byteCount, driver.virtualSize - offset))
            var tail = buffer.slice(inside..<buffer.byteCount)
            tail.fill()
            guard inside > 0 else { return }
            var part = buffer.slice(0..<inside)
            try readMapped(driver, into: &part, at: offset)
        }
    }

    /// Whether the backing node has bytes in `range`. If not, unallocated space reads as zeroes.
    func hasBacking(in range: Range<Int>) -> Bool {
        guard let backing else { return false }
        // An unreadable length must not turn the backing file's bytes into zeroes: reading them will fail.
        guard let length = try? backing.length() else { return true }
        return range.lowerBound < length
    }

    /// The range of a request, checked against the bounds of the disk.
    func checkedRange(
        _ offset: Int, _ count: Int, of driver: any FormatDriver
    ) throws(BlockError) -> Range<Int> {
        let size = driver.virtualSize
        guard offset >= 0, count >= 0, offset <= size, count <= size - offset else {
            throw BlockError(.io, "Input/output error", path: filename, offset: offset)
        }
        return offset..<offset + count
    }

    /// Reads `buffer.byteCount` bytes run by run, by the map of this layer.
    ///
    /// - Parameter ownOnly: whether unallocated runs read as zeroes even over a backing node.
    func readMapped(
        _ driver: any FormatDriver, into buffer: inout MutableRawSpan, at offset: Int, ownOnly: Bool = false
    ) throws(BlockError) {
        let count = buffer.byteCount
        var done = 0
        while done < count {
            let extent = try driver.extent(at: offset + done, limit: count - done)
            let run = min(max(extent.length, 1), count - done)
            var part = buffer.slice(done..<done + run)
            if ownOnly && extent.status == .unallocated {
                part.fill()
            } else {
                try read(extent, driver, into: &part, at: offset + done)
            }
            done += run
        }
    }

    func read(
        _ extent: Extent, _ driver: any FormatDriver, into part: inout MutableRawSpan, at offset: Int
    ) throws(BlockError) {
        switch extent.status {
        case .data(let hostOffset):
            guard try readableCount(hostOffset, part.byteCount, extent.child, driver) == part.byteCount else {
                throw try cutError(hostOffset, part.byteCount, extent.child)
            }
            file?.emit(.readData)
            try children[extent.child].read(into: &part, at: hostOffset)
        case .zero: part.fill()
        case .encoded: try driver.readEncoded(into: &part, at: offset)
        case .unallocated: try readBelow(into: &part, at: offset)
        }
    }
}
