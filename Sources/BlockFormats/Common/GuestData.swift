import BlockCore

/// The file that holds the bytes of plain clusters (the image's own, or an external data file), and the
/// encryption of those bytes.
///
/// All guest data except compressed clusters is read and written here; metadata is not. Offsets and counts
/// are in bytes; `guest` is the guest offset of the first byte. Thread-safe.
struct GuestData: Sendable {
    /// The file that holds the data.
    let node: BlockNode
    /// Its number among the children of the image's node (``Extent/child``).
    let child: Int
    /// The encryption of the data; `nil` for plain data, and when the image was opened for its metadata only.
    var encryption: DataEncryption?

    /// Whether the data is in an external file, in which a cluster's host offset is its guest offset.
    var isExternal: Bool { child != 0 }
    /// Whether space added to the end of the file reads as zeroes.
    var isZeroInitialised: Bool { encryption == nil && node.isZeroInitialised }

    /// Fills `buffer` with the guest bytes stored at `hostOffset`.
    ///
    /// - Throws: `io`.
    func read(into buffer: inout MutableRawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        guard let encryption else { return try node.read(into: &buffer, at: hostOffset) }
        try node.requireStored(at: hostOffset, count: buffer.byteCount)
        let numbering = encryption.numbersByGuest ? guest : hostOffset
        try encryption.store.read(node, into: &buffer, at: hostOffset, numbering: numbering)
    }

    /// Stores `bytes` at `hostOffset`.
    ///
    /// - Throws: `io`, `noSpace`.
    func write(_ bytes: RawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        guard let encryption else { return try node.write(bytes, at: hostOffset) }
        let numbering = encryption.numbersByGuest ? guest : hostOffset
        try encryption.store.write(node, bytes, at: hostOffset, numbering: numbering)
    }

    /// Stores `count` zeroes at `hostOffset`.
    ///
    /// - Parameter flags: whether the file may release the space of the range.
    /// - Throws: `io`, `noSpace`.
    func writeZeroes(
        at hostOffset: Int, count: Int, guest: Int, flags: ZeroFlags = .mayUnmap
    ) throws(BlockError) {
        guard encryption != nil else {
            return try node.writeZeroes(at: hostOffset, count: count, flags: flags)
        }
        let zeroes = AlignedBuffer(count: min(count, .mib(1)), zeroed: true)
        var done = 0
        while done < count {
            let part = min(zeroes.count, count - done)
            try write(zeroes.bytes(0..<part), at: hostOffset + done, guest: guest + done)
            done += part
        }
    }

    /// Releases space that no entry refers to any more. Its contents are undefined afterwards.
    func discard(at hostOffset: Int, count: Int) throws(BlockError) {
        try node.discard(at: hostOffset, count: count)
    }
}
