/// A job's use of a bitmap of a node: the bits at the start, and what becomes of them in the end.
///
/// Nobody else can change the bitmap meanwhile. Changes of the disk are recorded all the time, so that the
/// next job sees them whatever becomes of this one. Thread-safe.
public struct BitmapUse: Sendable {
    /// What becomes of the bitmap.
    public enum Outcome: Sendable {
        /// It keeps all its bits and gets those recorded meanwhile.
        case keep
        /// It has the bits recorded meanwhile, and those of `rest`.
        case replace(rest: DirtyBitmap?)
    }

    /// The bits at the start.
    ///
    /// They do not change.
    public let bits: DirtyBitmap
    private let node: BlockNode
    /// The bitmap in memory; for one stored in the image, what records the changes since.
    private let bitmap: NodeBitmap

    init(bits: DirtyBitmap, node: BlockNode, bitmap: NodeBitmap) {
        self.bits = bits
        self.node = node
        self.bitmap = bitmap
    }

    /// Ends the use.
    ///
    /// A bitmap that cannot be made smaller keeps all its bits.
    ///
    /// - Throws: errors of the image that stores the bitmap: it keeps its bits then.
    public func end(_ outcome: Outcome) throws(BlockError) {
        guard let name = bitmap.storedName else { return endInMemory(outcome) }
        try node.drained { () throws(BlockError) in
            defer { node.removeObserver(bitmap) }
            // The image has recorded the changes in its own bitmap too.
            guard case .replace(let rest) = outcome, let bits = try? joined(rest) else { return }
            try node.changeBitmaps { driver throws(BlockError) in
                try driver.replaceBitmap(name, with: bits)
            }
        }
    }

    private func endInMemory(_ outcome: Outcome) {
        switch outcome {
        case .keep: bitmap.reclaim()
        case .replace(let rest):
            do throws(BlockError) { try bitmap.abdicate(keeping: rest) } catch { bitmap.reclaim() }
        }
    }

    /// The bits recorded since the start, and those of `rest`, in the granularity of the stored bitmap.
    private func joined(_ rest: DirtyBitmap?) throws(BlockError) -> DirtyBitmap {
        let bits = bitmap.bits
        if let rest { try bits.merge(rest) }
        return bits
    }
}

extension BlockNode {
    /// Begins the use of a bitmap, in memory or in the image, after waiting until no request is under way.
    ///
    /// - Parameter changes: whether the use may end with ``BitmapUse/Outcome/replace(rest:)``.
    /// - Throws: `notFound`; `busy` while another job uses it; `corrupt` for an inconsistent one; `readOnly`
    ///   for one in an image that is not open for writing, with `changes`; `limit`, `io`.
    public func useBitmap(
        named name: String, for user: String, changes: Bool = true
    ) throws(BlockError) -> BitmapUse {
        let node = unfiltered
        return try node.drained { () throws(BlockError) in
            if let bitmap = node.memoryBitmap(named: name) {
                return BitmapUse(bits: try bitmap.createSuccessor(for: user), node: node, bitmap: bitmap)
            }
            guard let driver = node.recorder,
                let info = try driver.bitmaps().last(where: { $0.name.isSameName(as: name) })
            else {
                throw BlockError(.notFound, "Dirty bitmap '\(name)' not found", path: filename)
            }
            if changes, node.isReadOnly {
                throw BlockError(
                    .readOnly, "Bitmap '\(name)' is readonly and cannot be modified", path: filename)
            }
            let bits = try driver.bitmap(named: name)
            let since = try NodeBitmap(
                name: nil, size: bits.size, granularity: bits.granularity, isEnabled: info.isEnabled,
                storedName: info.name)
            try node.addObserver(since)
            return BitmapUse(bits: bits, node: node, bitmap: since)
        }
    }
}
