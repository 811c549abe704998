import BlockCore

/// A format whose images are read and never changed: all that would change one is refused.
protocol ReadOnlyFormat: FormatDriver {}

extension ReadOnlyFormat {
    /// - Throws: `readOnly` where the caller wants to write.
    static func refuseWriting(_ request: OpenRequest) throws(BlockError) {
        guard !request.settings.readOnly else { return }
        throw BlockError(
            .readOnly, "Images of format '\(name)' can only be read", path: request.file.filename)
    }

    /// - Throws: `unsupported` where a check is to change something.
    func refuseRepair(_ repair: RepairMode) throws(BlockError) {
        guard repair == .none else {
            throw BlockError(.unsupported, "Images of format '\(Self.name)' cannot be repaired")
        }
    }

    public var writeGranularity: Int { 1 }

    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        throw BlockError(.readOnly, "Images of format '\(Self.name)' can only be read")
    }

    public func flush() throws(BlockError) {}
    public func close() throws(BlockError) {}

    public func willReopen(readOnly: Bool) throws(BlockError) {
        guard readOnly else {
            throw BlockError(.readOnly, "Images of format '\(Self.name)' can only be read")
        }
    }
}
