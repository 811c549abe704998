import BlockCore

extension BlockNode {
    /// How much is copied at once, in bytes.
    private static let fillBytes = Int.mib(1)

    /// Writes into this file, from `hostOffset` on, what the guest saw in `guest` before a write that
    /// allocates the block around it.
    ///
    /// - Parameter isZero: what there is reads as zeroes, so that nothing needs to be read.
    /// - Throws: what reading, writing and zeroing throw.
    func fill(
        at hostOffset: Int, withOld guest: Range<Int>, isZero: Bool, _ old: any GuestReader
    ) throws(BlockError) {
        guard !guest.isEmpty else { return }
        if isZero { return try writeZeroes(at: hostOffset, count: guest.count) }
        let buffer = AlignedBuffer(count: min(guest.count, Self.fillBytes))
        var done = 0
        while done < guest.count {
            let count = min(buffer.count, guest.count - done)
            var span = buffer.mutableBytes(0..<count)
            try old.readOld(into: &span, at: guest.lowerBound + done)
            try write(buffer.bytes(0..<count), at: hostOffset + done)
            done += count
        }
    }
}
