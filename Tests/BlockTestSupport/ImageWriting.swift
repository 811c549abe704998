import BlockCore

/// Steps that tests need and the library leaves to its jobs.
public enum ImageWriting {
    /// Compresses and stores one unit (shorter at the end of the disk); an ordinary write where it does not
    /// get smaller.
    public static func writeCompressed(_ data: [UInt8], at offset: Int, to node: BlockNode) throws(BlockError)
    {
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
