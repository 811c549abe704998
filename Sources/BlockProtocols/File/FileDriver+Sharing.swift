import BlockCore
import CHost
import SystemPackage

/// Sharing blocks with another file of the same file system (reflinks: XFS, btrfs and others).
extension FileDriver {
    /// An offset behind the end of every file: a request there changes nothing.
    private static let nowhere: Int64 = 1 << 62

    public func sharesSpace(with source: any ProtocolDriver) -> Bool {
        guard let other = source as? FileDriver, !lacks(.shareRange), other.identity != identity else {
            return false
        }
        let code = platter_share_range(
            other.file.descriptor, Self.nowhere, file.descriptor, 0, Int64(BlockNode.sharingAlignment))
        // A file system with reflinks fails with EINVAL, as there are no blocks; others fail with another
        // error.
        return code == Errno.invalidArgument.rawValue
    }

    /// - Throws: `io`, `noSpace`.
    public func shareRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Bool {
        guard let other = source as? FileDriver, !lacks(.shareRange), count > 0,
            (sourceOffset | offset | count) & (BlockNode.sharingAlignment - 1) == 0
        else { return false }
        let sourceEnd = try other.file.checkRange(sourceOffset, count)
        let end = try file.checkRange(offset, count)
        // Behind its end, a file has no blocks to share.
        guard try sourceEnd <= other.length() else { return false }
        file.gate.enter()
        defer { file.gate.leave() }
        forgetData()
        let code = platter_share_range(
            other.file.descriptor, Int64(sourceOffset), file.descriptor, Int64(offset), Int64(count))
        guard code == 0 else {
            if code == Errno.badFileDescriptor.rawValue { throw .system(.badFileDescriptor, path: file.path) }
            // The reason does not matter: copying either works or fails with an error of its own.
            note(missing: .shareRange)
            return false
        }
        file.noteLength(end)
        if file.options.isWriteThrough { try file.flush() }
        return true
    }
}
