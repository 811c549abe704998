/// Nodes below and between filters.
extension BlockNode {
    /// The filter driver, where this is a filter's node.
    public var filter: (any FilterDriver)? {
        if case .filter(let driver) = layer { return driver }
        return nil
    }

    /// The node without the filters over it: its driver is the one that keeps or maps the bytes. What it is
    /// asked passes the filters by: read and write through the filter's own node.
    public var unfiltered: BlockNode {
        var node = self
        while case .filter(let driver) = node.layer { node = driver.child }
        return node
    }

    /// The alignment that requests to the file or filter should have, in bytes: 1 where it does not matter.
    public var requestAlignment: Int {
        switch layer {
        case .storage(let driver): driver.requestAlignment
        case .filter(let driver): driver.requestAlignment
        case .format: 1
        }
    }

    /// Bytes that a file takes up on the disk, also behind filters; `nil` where that means nothing.
    public func allocatedSize() -> Int? { unfiltered.storage?.allocatedSize() }

    /// Whether new space past the end of a file, also behind filters, reads as zeroes without writing them.
    public var isZeroInitialised: Bool { unfiltered.storage?.zeroInitialised == true }

    /// Takes the locks that ``OpenSettings/declaresUseLater`` put off, on the file behind filters. A format
    /// has declared its own.
    ///
    /// - Throws: `busy` when others' use does not go with ours.
    func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try unfiltered.storage?.asUseDeclaring?.declareUse(toleratingWriters: toleratingWriters)
    }

    /// Lets a change of a filter in, which must end before the node is resized, reopened or closed. The order
    /// of changes that overlap is the child's.
    ///
    /// - Returns: a ticket for `requests.release`.
    /// - Throws: `io` once the node is closed; `readOnly`.
    func beginPassing(_ offset: Int, _ count: Int) throws(BlockError) -> Int {
        let ticket = requests.acquire(Self.range(offset, count), exclusive: false)
        do throws(BlockError) { try checkChangeable() } catch {
            requests.release(ticket)
            throw error
        }
        return ticket
    }

    /// Reads through a filter.
    ///
    /// - Throws: also `io` once the node is closed.
    func read(
        through driver: any FilterDriver, into buffer: inout MutableRawSpan, at offset: Int
    ) throws(BlockError) {
        let ticket = beginReading(Self.range(offset, buffer.byteCount))
        defer { endReading(ticket) }
        try checkOpen()
        try driver.read(into: &buffer, at: offset)
    }

    /// Reopens a filter and the nodes below it, or leaves all as they are.
    func reopen(_ driver: any FilterDriver, readOnly: Bool) throws(BlockError) {
        try driver.willReopen(readOnly: readOnly)
        do throws(BlockError) {
            try driver.child.reopen(readOnly: readOnly)
            try driver.didReopen(readOnly: readOnly)
        } catch {
            try? driver.child.reopen(readOnly: !readOnly)
            try? driver.didReopen(readOnly: !readOnly)
            throw error
        }
    }

    private static func range(_ offset: Int, _ count: Int) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(max(count, 0))
        return offset..<(overflow ? .max : end)
    }
}
