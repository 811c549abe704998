import BlockCore

extension QcowDriver: CompressedWriting {
    public var compressedUnitBytes: Int { clusterBytes }

    /// - Throws: `limit` when the compressor gets no memory.
    public func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        var room = output.slice(0..<min(output.byteCount, clusterBytes - 1))
        if unit.byteCount == clusterBytes { return try Deflate.compress(unit, into: &room) }
        let padded = AlignedBuffer(count: clusterBytes, zeroed: true)
        var bytes = padded.mutableBytes
        bytes.copy(from: unit)
        return try Deflate.compress(padded.bytes, into: &room)
    }

    /// - Throws: `unsupported` for an encrypted image; `invalidArgument` for less than a whole cluster; `io`,
    ///   `noSpace`, `corrupt`.
    public func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        guard !isEncrypted else {
            throw BlockError(
                .unsupported, "Compression and encryption not supported at the same time",
                path: file.filename)
        }
        guard payload.byteCount > 0, payload.byteCount < clusterBytes, offset % clusterBytes == 0 else {
            throw BlockError(.invalidArgument, "Compressed writes are of whole clusters", path: file.filename)
        }
        let (unit, count) = (offset..<offset + clusterBytes, payload.byteCount)
        let grant = try session.begin(unit) { (state) throws(BlockError) in
            try state.grantCompressed(unit, bytes: count)
        }
        do throws(BlockError) {
            file.emit(.writeCompressed)
            try file.write(payload, at: grant.hostOffset)
        } catch {
            session.giveBack(grant)
            throw error
        }
        try session.link(grant)
    }
}
