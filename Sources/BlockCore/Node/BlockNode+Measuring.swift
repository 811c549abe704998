extension BlockNode {
    /// The total size, in bytes, of the blocks of `unit` bytes that contain data of this disk.
    ///
    /// - Throws: `io`, `corrupt`.
    /// - Complexity: O(*runs of the disk*).
    public func allocatedBytes(unit: Int) throws(BlockError) -> Int {
        let size = try length()
        var offset = 0
        var counted = 0
        var total = 0
        while offset < size {
            let run = try status(at: offset, limit: size - offset)
            if run.isData && !run.isZero {
                let start = max(counted, offset.roundedDown(to: unit))
                let end = (offset + run.length).roundedUp(to: unit) ?? size
                if end > start { total += end - start }
                counted = max(counted, end)
            }
            offset += run.length
        }
        return total
    }
}
