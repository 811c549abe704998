/// Nodes below and between filters.
extension BlockNode {
    /// The filter driver, if this is a filter's node.
    public var filter: (any FilterDriver)? {
        if case .filter(let driver) = layer { return driver }
        return nil
    }

    /// The node below all filters: its driver stores or maps the bytes, or makes a
    /// disk of several.
    ///
    /// Requests to it bypass the filters: read and write through the filter's own node.
    public var unfiltered: BlockNode {
        var node = self
        while let below = node.shownChild { node = below }
        return node
    }

    /// The node below a filter that shows that node's disk; `nil` for anything else.
    public var shownChild: BlockNode? {
        guard case .filter(let driver) = layer, driver.showsChild else { return nil }
        return driver.child
    }

    /// The alignment that requests to the file or filter should have, in bytes; 1 for no alignment.
    public var requestAlignment: Int {
        switch layer {
        case .storage(let driver): driver.requestAlignment
        case .filter(let driver): driver.requestAlignment
        case .format: 1
        }
    }

    /// Whether one of the filters is of those with file names of their own: QEMU shows no disk size of these.
    public var hidesAllocatedSize: Bool {
        guard case .filter(let driver) = layer else { return false }
        let isNamed = (driver as? any OpenableFilter).map { !type(of: $0).schemes.isEmpty } ?? false
        return isNamed || shownChild?.hidesAllocatedSize == true
    }

    /// The bytes that a file, also behind filters, takes up on the host's disk; `nil` for storage without
    /// such a number.
    public func allocatedSize() -> Int? { unfiltered.storage?.allocatedSize() }

    /// Whether new space past the end of a file, also behind filters, reads as zeroes without writing them.
    public var isZeroInitialised: Bool { unfiltered.storage?.zeroInitialised == true }

    /// Takes the locks that ``OpenSettings/declaresUseLater`` put off, on the file behind filters. A format
    /// has already taken its own.
    ///
    /// - Throws: `busy` when another program uses the file in a way that excludes this use.
    func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try unfiltered.storage?.asUseDeclaring?.declareUse(toleratingWriters: toleratingWriters)
    }

    /// Begins a change through a filter, which must end before the node is resized, reopened or closed. The
    /// child serialises overlapping changes.
    ///
    /// - Returns: a ticket for `requests.release`.
    /// - Throws: `io` once the node is closed; `readOnly`.
    func beginPassing(_ offset: Int, _ count: Int) throws(BlockError) -> Int {
        try passGate(.write, count)
        let ticket = requests.acquire(Self.range(offset, count), exclusive: false)
        do throws(BlockError) { try checkChangeable() } catch {
            requests.release(ticket)
            throw error
        }
        return ticket
    }

    /// Reads through a filter.
    ///
    /// - Throws: errors of the filter; `io` once the node is closed.
    func read(
        through driver: any FilterDriver, into buffer: inout MutableRawSpan, at offset: Int
    ) throws(BlockError) {
        try passGate(.read, buffer.byteCount)
        let ticket = beginReading(Self.range(offset, buffer.byteCount))
        defer { endReading(ticket) }
        try checkOpen()
        try driver.read(into: &buffer, at: offset)
    }

    /// Reopens a filter and the nodes below it; on failure all keep their old mode.
    func reopen(_ driver: any FilterDriver, readOnly: Bool) throws(BlockError) {
        try driver.willReopen(readOnly: readOnly)
        do throws(BlockError) {
            for child in children { try child.reopen(readOnly: readOnly) }
            try driver.didReopen(readOnly: readOnly)
        } catch {
            for child in children { try? child.reopen(readOnly: !readOnly) }
            try? driver.didReopen(readOnly: !readOnly)
            throw error
        }
    }

    private static func range(_ offset: Int, _ count: Int) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(max(count, 0))
        return offset..<(overflow ? .max : end)
    }
}
