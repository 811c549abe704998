import BlockCore

extension BlockNode {
    /// Does what `operation` says; it fits the disk. Closing and opening again is the caller's affair.
    public func perform(_ operation: DiskOperation) throws(BlockError) {
        switch operation {
        case .write(let offset, let count, let stamp, let noise):
            let bytes = Pattern.bytes(stamp: stamp, at: offset, count: count, noise: noise)
            try write(bytes.span.bytes, at: offset)
        case .writeCompressed(let offset, let count, let stamp, let noise):
            let bytes = Pattern.bytes(stamp: stamp, at: offset, count: count, noise: noise)
            try ImageWriting.writeCompressed(bytes, at: offset, to: self)
        case .writeZeroes(let offset, let count, let mayUnmap):
            try writeZeroes(at: offset, count: count, flags: mayUnmap ? .mayUnmap : [])
        case .discard(let offset, let count): try discard(at: offset, count: count)
        case .read(let offset, let count): _ = try readBytes(at: offset, count: count)
        case .flush, .reopen: try flush()
        case .resize(let size): try resize(to: size)
        case .createSnapshot(let name): try snapshots?.createSnapshot(SnapshotInfo(id: "", name: name))
        case .applySnapshot(let name): try snapshots?.applySnapshot(name)
        case .deleteSnapshot(let name): try snapshots?.deleteSnapshot(named: name)
        }
    }

    private var snapshots: (any SnapshotCapable)? { format as? any SnapshotCapable }
}

/// Steps that tests need and the library leaves to its jobs.
public enum ImageWriting {
    /// Compresses and stores one unit (shorter at the end of the disk); an ordinary write where it does not
    /// get smaller.
    public static func writeCompressed(
        _ data: [UInt8], at offset: Int, to node: BlockNode
    ) throws(BlockError) {
        guard let driver = node.format as? any CompressedWriting else {
            throw BlockError(.unsupported, "The format does not compress")
        }
        let unit = data + [UInt8](repeating: 0, count: driver.compressedUnitBytes - data.count)
        var output = [UInt8](repeating: 0, count: driver.compressedUnitBytes)
        var elements = output.mutableSpan
        var target = elements.mutableBytes
        if let size = try driver.compress(unit.span.bytes, into: &target) {
            try node.writeCompressed(output.span.bytes.extracting(0..<size), at: offset)
        } else {
            try node.write(data.span.bytes, at: offset)
        }
    }
}
