import BlockCore

/// Where the bytes of plain clusters are kept: in the image's own file, or in an external data file.
///
/// All guest data but compressed clusters is read and written through here, and nothing else is. Offsets and
/// counts are in bytes; `guest` is the guest offset of the first byte. Thread-safe.
struct Qcow2GuestData: Sendable {
    /// The file that holds the data.
    let node: BlockNode
    /// Its number among the children of the image's node (``Extent/child``).
    let child: Int

    /// Whether the data has a file to itself, in which a cluster's host offset is its guest offset.
    var isExternal: Bool { child != 0 }
    /// Whether what lies behind the end of the file reads as zeroes once it is longer.
    var isZeroInitialised: Bool { node.storage?.zeroInitialised == true }

    /// Fills `buffer` with what is stored at `hostOffset`.
    func read(into buffer: inout MutableRawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        try node.read(into: &buffer, at: hostOffset)
    }

    /// Stores `bytes` at `hostOffset`.
    func write(_ bytes: RawSpan, at hostOffset: Int, guest: Int) throws(BlockError) {
        try node.write(bytes, at: hostOffset)
    }

    /// Stores `count` zeroes at `hostOffset`.
    ///
    /// - Parameter flags: whether the file may give back the space behind them.
    func writeZeroes(
        at hostOffset: Int, count: Int, guest: Int, flags: ZeroFlags = .mayUnmap
    ) throws(BlockError) {
        try node.writeZeroes(at: hostOffset, count: count, flags: flags)
    }

    /// Gives space back that no entry refers to any more. What is there afterwards is not said.
    func discard(at hostOffset: Int, count: Int) throws(BlockError) {
        try node.discard(at: hostOffset, count: count)
    }
}
