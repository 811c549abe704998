import BlockCore

/// Where the bytes of plain clusters are kept: in the image's own file, or in an external data file; and what
/// encrypts them.
///
/// All guest data but compressed clusters is read and written through here, and nothing else is. Offsets and
/// counts are in bytes; `guest` is the guest offset of the first byte. Thread-safe.
struct GuestData: Sendable {
    /// The file that holds the data.
    let node: BlockNode
    /// Its number among the children of the image's node (``Extent/child``).
    let child: Int
    /// What encrypts the data; `nil` for plain data, and where only metadata is wanted.
    var encryption: DataEncryption?

    /// Whether the data has a file to itself, in which a cluster's host offset is its guest offset.
    var isExternal: Bool { child != 0 }
    /// Whether what lies behind the end of the file reads as zeroes once it is longer.
    var isZeroInitialised: Bool { encryption == nil && node.isZeroInitialised }

    /// Fills `buffer` with what is stored at `hostOffset`.
    func read(into buffer: inout MutableRawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        guard let encryption else { return try node.read(into: &buffer, at: hostOffset) }
        try node.requireStored(at: hostOffset, count: buffer.byteCount)
        let numbering = encryption.numbersByGuest ? guest : hostOffset
        try encryption.store.read(node, into: &buffer, at: hostOffset, numbering: numbering)
    }

    /// Stores `bytes` at `hostOffset`.
    func write(_ bytes: RawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        guard let encryption else { return try node.write(bytes, at: hostOffset) }
        let numbering = encryption.numbersByGuest ? guest : hostOffset
        try encryption.store.write(node, bytes, at: hostOffset, numbering: numbering)
    }

    /// Stores `count` zeroes at `hostOffset`.
    ///
    /// - Parameter flags: whether the file may give back the space behind them.
    func writeZeroes(
        at hostOffset: Int, count: Int, guest: Int, flags: ZeroFlags = .mayUnmap
    ) throws(BlockError) {
        guard encryption != nil else {
            return try node.writeZeroes(at: hostOffset, count: count, flags: flags)
        }
        let zeroes = AlignedBuffer(count: min(count, 1 << 20), zeroed: true)
        var done = 0
        while done < count {
            let part = min(zeroes.count, count - done)
            try write(zeroes.bytes(0..<part), at: hostOffset + done, guest: guest + done)
            done += part
        }
    }

    /// Gives space back that no entry refers to any more. What is there afterwards is not said.
    func discard(at hostOffset: Int, count: Int) throws(BlockError) {
        try node.discard(at: hostOffset, count: count)
    }
}
