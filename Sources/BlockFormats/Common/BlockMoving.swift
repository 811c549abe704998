import BlockCore

/// Tables with one entry a block that can refer to another place: blocks move out of the way of a longer
/// table, into gaps, or away from a place that they share.
///
/// The order of writes when a table grows over blocks, with a flush after each step:
///
/// 1. copies of those blocks, in space that the range excludes;
/// 2. their entries: ``vacate(_:)`` is done, and only now may the range be written;
/// 3. the longer table, which no header refers to yet;
/// 4. the header with the new table.
///
/// VHDX is not on it: its longer table is written to another place as a whole, and one entry of the log makes
/// it valid, so nothing is in the way.
protocol BlockMoving: SessionState {
    var file: BlockNode { get }
    var blockCount: Int { get }
    /// The bytes of the file of a stored block; `nil` for one that is not stored.
    func hostRange(ofBlock block: Int) -> Range<Int>?
    /// The offset in the file of the block that `entry` refers to, in bytes.
    func hostOffset(ofEntry entry: UInt32) -> Int

    /// Takes space for a block. No table refers to it yet.
    ///
    /// - Returns: the entry for it.
    /// - Throws: `noSpace`, `io`.
    mutating func takeBlock() throws(BlockError) -> UInt32
    /// Gives back space for a block whose copy failed.
    mutating func giveBack(_ entry: UInt32, of block: Int)
    /// Replaces the entry of a stored block by that of its copy.
    mutating func relink(_ block: Int, to entry: UInt32)
}

extension BlockMoving {
    /// Copies a block to the place of `entry`, and makes that its entry. The block must have no unwritten
    /// changes.
    ///
    /// - Returns: the number of bytes read.
    /// - Throws: `io`, `noSpace`.
    @discardableResult
    mutating func move(_ block: Int, to entry: UInt32) throws(BlockError) -> Int {
        guard let source = hostRange(ofBlock: block) else { return 0 }
        let count = try file.copyInside(source, to: hostOffset(ofEntry: entry))
        relink(block, to: entry)
        return count
    }

    /// Moves a block to new space.
    ///
    /// - Returns: the number of bytes read.
    /// - Throws: `io`, `noSpace`.
    @discardableResult
    mutating func move(_ block: Int) throws(BlockError) -> Int {
        let entry = try takeBlock()
        do throws(BlockError) { return try move(block, to: entry) } catch {
            giveBack(entry, of: block)
            throw error
        }
    }

    /// Moves blocks out of `range`, in bytes of the file, which the caller has excluded from new space.
    ///
    /// - Throws: `io`, `noSpace`.
    mutating func vacate(_ range: Range<Int>) throws(BlockError) {
        for block in 0..<blockCount where hostRange(ofBlock: block)?.overlaps(range) ?? false {
            try move(block)
        }
        try commit()
    }
}
