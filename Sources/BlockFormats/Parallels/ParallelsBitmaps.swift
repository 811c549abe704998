import BlockCore

/// Dirty bitmaps in the format extension. Their names are UUIDs, and all of them record changes.
///
/// The first change of a session reads them and drops the file's reference to them, because a crash would
/// leave them outdated. Closing the image stores them again.
extension ParallelsDriver: BitmapCapable {
    public var bitmapObstacle: String? {
        clusterBytes <= Parallels.Limit.extensionBytes
            ? nil : "Cannot store dirty bitmaps in images with so large clusters"
    }

    /// - Throws: nothing.
    public func bitmaps() throws(BlockError) -> [BitmapInfo] {
        session.withLock { state in
            state.features.bitmaps.map { bitmap in
                BitmapInfo(
                    name: bitmap.id.text, granularity: bitmap.granularity, isEnabled: bitmap.obstacle == nil,
                    isInconsistent: bitmap.obstacle != nil)
            }
        }
    }

    /// - Throws: `notFound`; `corrupt` for unusable bits; `io`.
    public func bitmap(named name: String) throws(BlockError) -> DirtyBitmap {
        try session.exclusively { (state) throws(BlockError) -> DirtyBitmap in
            let bitmap = state.features.bitmaps[try state.usableBitmap(name)]
            if let bits = bitmap.bits { return bits.copy() }
            return try state.readBits(bitmap)
        }
    }

    /// - Throws: `invalidArgument`, `unsupported`, `exists`, `limit`, `readOnly`; `io`.
    public func addBitmap(_ name: String, granularity: Int?, isEnabled: Bool) throws(BlockError) {
        guard let id = ImageUUID(text: name) else {
            throw BlockError(
                .invalidArgument, "The name of a bitmap in a Parallels image must be a UUID, not '\(name)'")
        }
        guard isEnabled else {
            throw BlockError(.unsupported, "Bitmaps in a Parallels image cannot be disabled")
        }
        let granularity = granularity ?? 65536
        guard granularity >= Parallels.sectorBytes, granularity <= 1 << 31 else {
            throw BlockError(.invalidArgument, "The granularity must be 512 bytes to 2 GiB")
        }
        if let obstacle = bitmapObstacle { throw BlockError(.unsupported, obstacle) }
        try change { state throws(BlockError) in
            guard !state.features.bitmaps.contains(where: { $0.id == id }) else {
                throw BlockError(.exists, "Bitmap already exists: \(name)")
            }
            try state.add(id, granularity: granularity)
        }
    }

    /// - Throws: `notFound`, `readOnly`; `io`.
    public func removeBitmap(_ name: String) throws(BlockError) {
        try change { state throws(BlockError) in
            state.features.bitmaps.remove(at: try state.bitmapIndex(name))
        }
    }

    /// - Throws: `notFound`, `corrupt`, `readOnly`; `io`.
    public func clearBitmap(_ name: String) throws(BlockError) {
        try change { state throws(BlockError) in
            state.features.bitmaps[try state.usableBitmap(name)].bits?.clearAll()
        }
    }

    /// - Throws: `unsupported` when disabling; `notFound`, `corrupt`.
    public func setBitmap(_ name: String, isEnabled: Bool) throws(BlockError) {
        guard isEnabled else {
            throw BlockError(.unsupported, "Bitmaps in a Parallels image cannot be disabled")
        }
        _ = try session.withLock { (state) throws(BlockError) in try state.usableBitmap(name) }
    }

    /// - Throws: `notFound`, `corrupt`, `readOnly`; `io`.
    public func mergeBitmap(_ source: DirtyBitmap, into name: String) throws(BlockError) {
        try change { state throws(BlockError) in
            try state.features.bitmaps[try state.usableBitmap(name)].bits?.merge(source)
        }
    }

    /// - Throws: `notFound`, `corrupt`, `readOnly`, `invalidArgument`; `io`.
    public func replaceBitmap(_ name: String, with source: DirtyBitmap) throws(BlockError) {
        try change { state throws(BlockError) in
            try state.features.bitmaps[try state.usableBitmap(name)].bits?.replace(with: source)
        }
    }

    /// Changes the bitmaps while no request is in flight and all of them are in memory.
    private func change(
        _ body: (inout ParallelsState) throws(BlockError) -> Void
    ) throws(BlockError) {
        try session.exclusively { (state) throws(BlockError) in
            if state.isReadOnly {
                throw BlockError(.readOnly, "Block node is read-only", path: state.file.filename)
            }
            try state.beginGuestChange()
            try body(&state)
        }
    }

    // MARK: Recording

    public var recordsChanges: Bool { session.withLock { !$0.isReadOnly && $0.features.hasUsableBitmaps } }

    /// - Throws: `corrupt`, `io`.
    public func recordChange(in range: Range<Int>) throws(BlockError) {
        try session.withLock { (state) throws(BlockError) in
            try state.beginGuestChange()
            for bitmap in state.features.bitmaps { bitmap.bits?.set(range) }
        }
    }
}

extension ParallelsFeatures {
    /// Whether any bitmap has to record changes.
    var hasUsableBitmaps: Bool { bitmaps.contains { $0.obstacle == nil } }
}

extension ParallelsState {
    fileprivate func bitmapIndex(_ name: String) throws(BlockError) -> Int {
        guard let index = features.bitmaps.firstIndex(where: { $0.id.text == name.lowercased() }) else {
            throw BlockError(.notFound, "Dirty bitmap '\(name)' not found")
        }
        return index
    }

    /// - Throws: `notFound`; `corrupt` for a bitmap with unusable bits.
    fileprivate func usableBitmap(_ name: String) throws(BlockError) -> Int {
        let index = try bitmapIndex(name)
        if let obstacle = features.bitmaps[index].obstacle {
            throw BlockError(.corrupt, "Bitmap '\(name)' cannot be used: \(obstacle)")
        }
        return index
    }

    fileprivate mutating func add(_ id: ImageUUID, granularity: Int) throws(BlockError) {
        let bitmap = try ParallelsBitmap(id, diskBytes: header.virtualSize, granularity: granularity)
        features.bitmaps.append(bitmap)
        do throws(BlockError) { try checkBitmapsFit(diskBytes: header.virtualSize) } catch {
            features.bitmaps.removeLast()
            throw error
        }
    }

    /// - Throws: `limit` when the bitmaps of a disk of that size are too many or too large.
    func checkBitmapsFit(diskBytes: Int) throws(BlockError) {
        let usable = features.bitmaps.filter { $0.obstacle == nil }
        if usable.isEmpty { return }
        var total = 0
        var room = ParallelsExtension.bytesNeeded(features.kept)
        for bitmap in usable {
            let stored = ParallelsBitmap.storedBytes(diskBytes: diskBytes, granularity: bitmap.granularity)
            let entries = stored.dividedRoundingUp(by: header.clusterBytes)
            total += stored
            room += ParallelsExtension.sectionHeaderBytes + ParallelsBitmap.headerBytes + entries * 8
        }
        guard total <= Parallels.Limit.bitmapBytes, room <= header.clusterBytes else {
            throw BlockError(
                .limit, "The image's bitmaps would not fit; use a larger granularity, or remove one")
        }
    }
}

extension ImageUUID {
    /// Reads `01234567-89ab-cdef-0123-456789abcdef`; `nil` for anything else.
    fileprivate init?(text: String) {
        let digits = Array(text.utf8).filter { $0 != UInt8(ascii: "-") }
        guard digits.count == 32 else { return nil }
        let bytes = stride(from: 0, to: 32, by: 2).compactMap { start in
            UInt8(String(decoding: digits[start..<start + 2], as: UTF8.self), radix: 16)
        }
        guard bytes.count == 16 else { return nil }
        self.init(bytes: bytes)
        guard self.text == text.lowercased() else { return nil }
    }
}
