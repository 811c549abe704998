import BlockCore

extension VmdkDriver: Rebasable {
    /// The lines of the parent are in the descriptor's first sector, which is written atomically.
    ///
    /// - Throws: `unsupported`, `invalidArgument`, `notFound`, `limit`, `noSpace`, `io`.
    public func changeBacking(to backing: BackingReference?) throws(BlockError) {
        // The parent is another image, with locks of its own: it is opened without this one's.
        let stated = session.withLock { $0.descriptor?.descriptor.parentCID }
        var parent = Vmdk.noParent
        if let backing { parent = try identity(of: backing, stated: stated) }
        try session.exclusively { (state) throws(BlockError) in
            guard var changed = state.descriptor?.descriptor, changed.cid != nil else {
                throw BlockError(
                    .unsupported, "The image has no descriptor to name a backing file in", path: file.filename
                )
            }
            guard backing == nil || state.extents.allSatisfy({ $0.tables != nil }) else {
                throw BlockError(
                    .unsupported, "Flat image can't have backing file", path: file.filename)
            }
            changed.set("parentCID", to: "parentCID=" + VmdkPlan.hex(parent), after: "CID")
            changed.removeAnnouncements()
            changed.set("parentFileNameHint", to: backing.map { "parentFileNameHint=\"\($0.filename)\"" })
            try state.commit()
            try state.descriptor?.replace(with: changed)
        }
    }

    /// The content ID of the next backing file.
    ///
    /// - Parameter stated: the content ID of the present one.
    private func identity(
        of backing: BackingReference, stated: UInt32?
    ) throws(BlockError) -> UInt32 {
        guard !backing.filename.contains("\""), !backing.filename.contains("\n") else {
            throw BlockError(
                .invalidArgument, "File names in a VMDK image cannot have '\"' or line feeds")
        }
        if let format = backing.format, format != Self.name {
            throw BlockError(
                .unsupported, "Invalid backing file format: \(format). Must be \(Self.name)",
                path: file.filename)
        }
        guard let request else { return stated ?? 0 }
        let node: BlockNode
        do throws(BlockError) { node = try request.openBacking(backing) } catch {
            // A rebase without checks (-u) may name a missing file: the parent under a new name.
            guard error.kind == .notFound, request.settings.withoutBacking, let stated, stated != 0,
                stated != Vmdk.noParent
            else { throw error }
            return stated
        }
        defer { try? node.close() }
        return try Self.contentID(of: node)
    }

    /// Refuses a parent that was written to since the image was made over it.
    ///
    /// - Throws: `corrupt` for a changed parent; `unsupported`.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard backing.parentIdentity(of: Self.name) != nil else { return }
        let (stated, announced) = session.withLock {
            ($0.descriptor?.descriptor.parentCID, $0.descriptor?.descriptor.announcedParentCID)
        }
        let found = try Self.contentID(of: backing)
        // 0 is stored when the file was not opened at creation.
        guard let stated, stated != Vmdk.noParent, stated != 0, stated != found, announced != found else {
            return
        }
        throw BlockError(
            .corrupt,
            "The backing file '\(backing.filename)' was changed since the image was made over it (its CID is "
                + "\(VmdkPlan.hex(found)), not \(VmdkPlan.hex(stated)))", path: file.filename,
            hint: "Where that did no harm, 'rebase -u' makes the image accept it.")
    }
}

extension VmdkDriver: Emptying {
    /// Makes every grain of this layer unallocated.
    ///
    /// The order of writes: the entries of all tables; a flush; the length of the files. The parent holds the
    /// same data, so the disk reads as before.
    ///
    /// - Throws: `unsupported` for a disk with flat extents; `corrupt`, `noSpace`, `io`.
    public func makeEmpty() throws(BlockError) {
        try session.exclusively { (state) throws(BlockError) in
            guard state.extents.allSatisfy({ $0.tables != nil }) else {
                throw BlockError(.unsupported, "Only sparse images can be emptied", path: file.filename)
            }
            try state.commit()
            for extent in state.extents {
                guard let tables = extent.tables else { continue }
                for number in tables.directory.indices {
                    guard try tables.table(number) != nil else { continue }
                    let first = number * tables.entriesPerTable
                    try tables.link(first..<first + tables.entriesPerTable) { _ in 0 }
                }
                try tables.commit()
                if !tables.header.isCompressed { try VmdkCompaction(tables).run() }
            }
        }
    }
}

extension VmdkDriver: ParentIdentifying {
    /// The content ID, big-endian.
    public var parentIdentity: [UInt8] { Self.bytes(session.withLock { $0.descriptor?.descriptor.cid ?? 0 }) }
    public func nextParentIdentity() -> [UInt8] { Self.bytes(session.withLock { $0.nextIdentity() }) }

    private static func bytes(_ cid: UInt32) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: cid >> $0) }
    }
}

extension VmdkDriver: ContentIdentifying {
    /// The order of writes: the parent's present ID replaces the stated one, whose digits are in one sector;
    /// then the announced ID is appended to the text.
    ///
    /// - Throws: `unsupported`, `limit`, `noSpace`, `io`.
    public func announceIdentity(of backing: BlockNode) throws(BlockError) {
        let (now, next) = (try Self.contentID(of: backing), try Self.nextContentID(of: backing))
        try session.exclusively { (state) throws(BlockError) in
            try Self.accept(now, &state)
            if now != next { try state.descriptor?.announceParent(next) }
        }
    }

    /// - Throws: `noSpace`, `io`, `limit`.
    public func renewIdentity() throws(BlockError) {
        try session.withLock { (state) throws(BlockError) in try state.prepareChange() }
    }

    /// - Throws: `unsupported`, `limit`, `noSpace`, `io`.
    public func adoptIdentity(of backing: BlockNode) throws(BlockError) {
        let now = try Self.contentID(of: backing)
        try session.exclusively { (state) throws(BlockError) in
            try Self.accept(now, &state)
            try state.descriptor?.withdrawAnnouncement()
        }
    }

    public func keepIdentity(_ isKept: Bool) { session.withLock { $0.keepsIdentity = isKept } }

    private static func accept(_ cid: UInt32, _ state: inout VmdkState) throws(BlockError) {
        guard let stated = state.descriptor?.descriptor.parentCID, stated != Vmdk.noParent else { return }
        if stated != cid { try state.descriptor?.change("parentCID", to: cid) }
    }
}
