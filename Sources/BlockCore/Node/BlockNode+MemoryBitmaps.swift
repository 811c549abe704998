/// Dirty bitmaps in memory.
extension BlockNode {
    /// Makes a clean bitmap in memory that records the changes of the disk from now on, after waiting until
    /// no request is under way.
    ///
    /// - Parameters:
    ///   - name: up to ``NodeBitmap/maximumNameBytes`` bytes, different from the names of all bitmaps,
    ///     in memory and in the image; `nil` for an anonymous bitmap.
    ///   - granularity: the bytes of the disk for each bit, a power of two of at least 512; `nil` for the
    ///     cluster size, between 4 and 64 KiB.
    /// - Throws: `exists`; `invalidArgument` for the name or the granularity; `limit` for too many bits;
    ///   `unsupported` for a node without a format; `io`, `corrupt`.
    public func addBitmap(
        named name: String?, granularity: Int? = nil, isEnabled: Bool = true
    ) throws(BlockError) -> NodeBitmap {
        let node = unfiltered
        try Self.checkBitmapName(name)
        let granularity = granularity ?? node.defaultBitmapGranularity
        guard granularity >= NodeBitmap.minimumGranularity, granularity.isPowerOfTwo else {
            throw BlockError(.invalidArgument, "Granularity must be power of 2 and at least 512")
        }
        return try node.drained { () throws(BlockError) in
            if let name, try node.hasBitmap(named: name) {
                throw BlockError(.exists, "Bitmap already exists: \(name)", path: filename)
            }
            let bitmap = try NodeBitmap(
                name: name, size: try node.length(), granularity: granularity, isEnabled: isEnabled)
            try node.addObserver(bitmap)
            return bitmap
        }
    }

    /// Removes a bitmap in memory, after waiting until no request is under way.
    ///
    /// - Throws: `notFound` when the node does not have it; `busy` while a job uses it.
    public func removeBitmap(_ bitmap: NodeBitmap) throws(BlockError) {
        let node = unfiltered
        try node.drained { () throws(BlockError) in
            guard node.memoryBitmaps.contains(where: { $0 === bitmap }) else {
                throw BlockError(
                    .notFound, "Dirty bitmap '\(bitmap.name ?? "")' not found", path: filename)
            }
            if !bitmap.isInconsistent { try bitmap.checkUsable() }
            node.removeObserver(bitmap)
        }
    }

    /// The bitmaps in memory, in the order in which they were added.
    public var memoryBitmaps: [NodeBitmap] {
        unfiltered.observers.all.compactMap { $0 as? NodeBitmap }.filter { $0.storedName == nil }
    }

    /// The bitmap in memory of that name; `nil` for none.
    public func memoryBitmap(named name: String) -> NodeBitmap? {
        memoryBitmaps.first { $0.name?.isSameName(as: name) == true }
    }

    /// A copy of the bits of a bitmap, in memory or in the image.
    ///
    /// - Throws: `notFound`; `corrupt` for an inconsistent one; `limit`, `io`.
    public func bitmapBits(named name: String) throws(BlockError) -> DirtyBitmap {
        if let bitmap = memoryBitmap(named: name) {
            if bitmap.isInconsistent { try bitmap.checkUsable() }
            return bitmap.bits
        }
        guard let driver = unfiltered.recorder else {
            throw BlockError(.notFound, "Dirty bitmap '\(name)' not found", path: filename)
        }
        return try driver.bitmap(named: name)
    }

    /// All bitmaps of the node, in memory and in the image; the latest first.
    ///
    /// - Throws: `corrupt`, `limit`, `io` when the image's bitmaps cannot be read.
    /// - Complexity: O(*bits* / 64) for each bitmap stored in the image.
    public func bitmapStatuses() throws(BlockError) -> [BitmapStatus] {
        let node = unfiltered
        let inUse = node.observers.all.compactMap { ($0 as? NodeBitmap)?.storedName }
        var statuses: [BitmapStatus] = []
        for info in try node.recorder?.bitmaps() ?? [] {
            var bytes = 0
            if !info.isInconsistent, let bits = try node.recorder?.bitmap(named: info.name) {
                bytes = bits.dirtyCount * bits.granularity
            }
            statuses.append(
                BitmapStatus(
                    name: info.name, granularity: info.granularity, dirtyBytes: bytes,
                    isRecording: info.isEnabled && !info.isInconsistent,
                    isBusy: inUse.contains { $0.isSameName(as: info.name) }, isPersistent: true,
                    isInconsistent: info.isInconsistent))
        }
        return (statuses + node.memoryBitmaps.map(\.status)).reversed()
    }

    private func hasBitmap(named name: String) throws(BlockError) -> Bool {
        if memoryBitmap(named: name) != nil { return true }
        return try recorder?.bitmaps().contains { $0.name.isSameName(as: name) } ?? false
    }

    private static func checkBitmapName(_ name: String?) throws(BlockError) {
        guard let name else { return }
        if name.isEmpty { throw BlockError(.invalidArgument, "Bitmap name cannot be empty") }
        guard name.utf8.count <= NodeBitmap.maximumNameBytes else {
            throw BlockError(
                .invalidArgument,
                "Bitmap name is too long (the limit is \(NodeBitmap.maximumNameBytes) bytes)")
        }
    }

    private var defaultBitmapGranularity: Int {
        guard let size = try? format?.describe().clusterSizeBytes, size.isPowerOfTwo else { return .kib(64) }
        return min(.kib(64), max(.kib(4), size))
    }
}
