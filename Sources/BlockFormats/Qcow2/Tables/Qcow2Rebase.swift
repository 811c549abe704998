import BlockCore

extension Qcow2Driver: Rebasable {
    /// After a crash the image names the old file or the new one: see ``Qcow2State/rewriteHeader(to:)``.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        try exclusively { tables throws(BlockError) in
            guard backing == nil || !tables.header.keepsDataFileRaw else {
                throw BlockError(
                    .invalidArgument, "An image whose data file is raw has no backing file",
                    path: file.filename)
            }
            try tables.commit()
            var changed = tables.header
            changed.backing = backing
            do throws(BlockError) { try tables.rewriteHeader(to: changed) } catch {
                throw error.concerning(tables.file.filename)
            }
        }
    }
}

extension Qcow2Header {
    /// Finds a place for the backing name in the header's cluster, behind the extensions.
    ///
    /// - Parameters:
    ///   - old: the bytes of the old name, which must stay until the header is written.
    ///   - oldEnd: the end of the old extensions, which must stay until then too.
    /// - Throws: `limit` when the name is too long or does not fit.
    mutating func placeBackingName(
        avoiding old: Range<Int>? = nil, behind oldEnd: Int = 0
    ) throws(BlockError) {
        let length = backing?.filename.rawBytes.count ?? 0
        guard length <= Qcow2.Limit.backingNameBytes,
            (backing?.format?.rawBytes.count ?? 0) <= Qcow2.Limit.backingFormatBytes
        else { throw BlockError(.limit, "Backing file name too long") }
        backingOffset = 0
        if bytesWithExtensions().count + length > 1 << clusterBits {
            // The table of feature names is optional; in a small cluster the backing name matters more.
            extensions.removeAll { $0.type == Qcow2.ExtensionType.featureNames }
        }
        let first = bytesWithExtensions().count
        let last = (1 << clusterBits) - length
        guard first <= last else {
            throw BlockError(.limit, "The names of other files do not fit into the header cluster")
        }
        if backing == nil { return }
        backingNameBytes = length
        var place = max(first, oldEnd)
        if let old, old.overlaps(place..<place + length) { place = max(place, old.upperBound) }
        // Without room beside the old name and extensions, they are overwritten.
        backingOffset = place <= last ? place : first
    }
}
