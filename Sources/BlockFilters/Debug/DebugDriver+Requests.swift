import BlockCore

/// Requests, split and grown to whole blocks by the limits. Rules can make them fail.
extension DebugDriver {
    public var requestAlignment: Int { max(child.requestAlignment, limits.alignment) }

    private func check(_ request: DebugRules.Request, _ range: Range<Int>? = nil) throws(BlockError) {
        if let code = fault(of: request, range) {
            throw .system(errno: code, path: Self.name, offset: range?.lowerBound)
        }
    }

    private func range(_ offset: Int, _ count: Int) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(max(count, 0))
        return offset..<(overflow ? .max : end)
    }

    /// Applies the rules to `range` as the node below would get it: in whole blocks, split at its largest
    /// transfer.
    private func checkTransfer(_ request: DebugRules.Request, _ range: Range<Int>) throws(BlockError) {
        let whole = limits.whole(range)
        if whole.isEmpty { return try check(request, whole) }
        try DebugLimits.eachPart(of: whole, unit: 1, maximum: limits.maximumTransfer) {
            part throws(BlockError) in try check(request, part)
        }
    }

    /// - Throws: errors of the rules; as ``BlockNode/read(into:at:)``.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try checkTransfer(.read, range(offset, buffer.byteCount))
        try child.read(into: &buffer, at: offset)
    }

    /// - Throws: errors of the rules; as ``BlockNode/write(_:at:)``.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        // Grown to whole blocks it would be inside the disk.
        if offset < 0 { return try child.write(bytes, at: offset) }
        let range = range(offset, bytes.byteCount)
        try readEdges(of: range)
        let whole = limits.whole(range)
        try DebugLimits.eachPart(of: whole, unit: 1, maximum: limits.maximumTransfer) {
            part throws(BlockError) in
            try check(.write, part)
            let inside = part.clamped(to: range)
            let bytes = bytes.extracting(inside.lowerBound - offset..<inside.upperBound - offset)
            if !bytes.isEmpty { try child.write(bytes, at: inside.lowerBound) }
        }
    }

    /// Emits the events and faults of reading the blocks in which a write begins or ends in the middle.
    /// Nothing is read: the node below accepts any write. Two neighbouring blocks count as one read.
    private func readEdges(of range: Range<Int>) throws(BlockError) {
        let whole = limits.whole(range)
        let hasHead = whole.lowerBound < range.lowerBound
        let hasTail = whole.upperBound > range.upperBound
        guard hasHead || hasTail, whole.upperBound < .max else { return }
        let isShort = whole.count == limits.alignment
        let isOne = isShort || hasHead && hasTail && whole.count == 2 * limits.alignment
        if hasHead || isOne {
            if hasHead { hear(.storageMergeHead) }
            if isOne, hasTail { hear(.storageMergeTail) }
            try check(.read, isOne ? whole : whole.lowerBound..<whole.lowerBound + limits.alignment)
            if hasHead { hear(.storageMergedHead) }
            if isOne, hasTail { hear(.storageMergedTail) }
        }
        guard hasTail, !isOne else { return }
        hear(.storageMergeTail)
        try check(.read, whole.upperBound - limits.alignment..<whole.upperBound)
        hear(.storageMergedTail)
    }

    /// - Throws: errors of the rules; as ``BlockNode/writeZeroes(at:count:flags:)``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        if offset < 0 { return try child.writeZeroes(at: offset, count: count, flags: flags) }
        let unit = max(limits.alignment, limits.zeroAlignment)
        try readEdges(of: range(offset, count))
        try DebugLimits.eachPart(of: range(offset, count), unit: unit, maximum: limits.maximumZero) {
            part throws(BlockError) in
            let isShort = part.count < unit
            if isShort, flags.contains(.noFallback) {
                throw BlockError(
                    .unsupported, "Operation not supported", path: Self.name, offset: offset)
            }
            try isShort ? checkTransfer(.write, part) : check(.writeZeroes, limits.whole(part))
            try child.writeZeroes(at: part.lowerBound, count: part.count, flags: isShort ? [] : flags)
        }
    }

    /// Parts of blocks are left alone.
    ///
    /// - Throws: errors of the rules; as ``BlockNode/discard(at:count:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        if offset < 0 { return try child.discard(at: offset, count: count) }
        let unit = max(limits.alignment, limits.discardAlignment)
        try DebugLimits.eachPart(of: range(offset, count), unit: unit, maximum: limits.maximumDiscard) {
            part throws(BlockError) in
            if part.count < limits.alignment { return }
            try check(.discard, part)
            try child.discard(at: part.lowerBound, count: part.count)
        }
    }

    /// - Throws: errors of the rules; as ``BlockNode/flush()``.
    public func flush() throws(BlockError) {
        if ignoresFlush { return }
        try check(.flush)
        try child.flush()
    }

    /// - Throws: errors of the rules; as ``BlockNode/layerExtent(at:limit:)``.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        try check(.status, limits.whole(range(offset, limit)))
        return try child.layerExtent(at: offset, limit: limit)
    }
}
