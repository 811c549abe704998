import BlockCore

/// A format whose images are only read: requests that would change one throw.
protocol ReadOnlyFormat: FormatDriver {}

extension ReadOnlyFormat {
    /// - Throws: `readOnly` when the caller opens the image for writing.
    static func refuseWriting(_ request: OpenRequest) throws(BlockError) {
        guard !request.settings.readOnly else { return }
        throw BlockError(
            .readOnly, "Images of format '\(name)' can only be read", path: request.file.filename)
    }

    /// - Throws: `unsupported` when a check is asked to repair.
    func refuseRepair(_ repair: RepairMode) throws(BlockError) {
        guard repair == .none else {
            throw BlockError(.unsupported, "Images of format '\(Self.name)' cannot be repaired")
        }
    }

    public var writeGranularity: Int { 1 }

    /// - Throws: always `readOnly`.
    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "Images of format '\(Self.name)' can only be read")
    }

    /// - Throws: nothing.
    public func flush() throws(BlockError) {}
    /// - Throws: nothing.
    public func close() throws(BlockError) {}

    /// - Throws: `readOnly` when the image is to become writable.
    public func willReopen(readOnly: Bool) throws(BlockError) {
        guard readOnly else {
            throw BlockError(.readOnly, "Images of format '\(Self.name)' can only be read")
        }
    }
}
