import Synchronization

/// Media that can be taken out of the drive below a node.
extension BlockNode {
    /// The drive whose bytes this disk is, one for one, also behind filters; `nil` for storage whose medium
    /// stays.
    var drive: (any RemovableMedium)? {
        guard let drive = plainStorage?.asRemovable, drive.isRemovable else { return nil }
        return drive
    }

    /// The storage below formats that show their file's bytes as they are; `nil` for a format with metadata.
    private var plainStorage: (any ProtocolDriver)? {
        var node = unfiltered
        while let format = node.format {
            guard type(of: format).traits.contains(.plainBytes), let file = node.file else { return nil }
            node = file.unfiltered
        }
        return node.storage
    }

    /// Whether the medium can be taken out of the drive.
    public var isRemovable: Bool { drive != nil }

    /// Whether all media that this node reads are there: `true` for files, `false` once the node is closed.
    ///
    /// - Throws: `io`.
    public func isInserted() throws(BlockError) -> Bool {
        if isClosed { return false }
        if let storage {
            guard let drive = storage.asRemovable, drive.isRemovable else { return true }
            return try drive.mediumState() == .inserted
        }
        for child in children where try !child.isInserted() { return false }
        return true
    }

    /// Whether a drive's medium was changed since the last call; `false` for other storage.
    ///
    /// - Throws: `unsupported` when the drive cannot tell; `io`.
    public func mediaChanged() throws(BlockError) -> Bool {
        guard let drive else { return false }
        return try drained { () throws(BlockError) in
            try checkOpen()
            let hasChanged = try drive.mediaChanged()
            if hasChanged { forgetLengths() }
            return hasChanged
        }
    }

    private func forgetLengths() {
        var node: BlockNode? = self
        while let present = node {
            present.seenLength.store(0, ordering: .relaxed)
            node = present.file
        }
    }

    /// What the drive holds.
    ///
    /// - Throws: `unsupported` without a removable medium; `io`.
    public func mediumState() throws(BlockError) -> MediumState { try requireDrive().mediumState() }

    /// Flushes, and takes the medium out of the drive.
    ///
    /// The node stays open; reads fail until there is another
    /// medium.
    ///
    /// - Parameter force: whether a lock of the drive is taken away first.
    /// - Throws: `busy` for a locked medium, and while a job uses the node; `unsupported` without a removable
    ///   medium; `notFound`, `noSpace`, `io`.
    public func eject(force: Bool = false) throws(BlockError) {
        let drive = try requireDrive()
        try checkUnused()
        try drained { () throws(BlockError) in
            try checkOpen()
            try flush()
            try drive.eject(force: force)
        }
    }

    /// Closes the tray of the drive.
    ///
    /// - Throws: `unsupported` without a removable medium; `notFound`, `busy`, `io`.
    public func load() throws(BlockError) { try requireDrive().load() }

    /// Locks the medium in the drive, or unlocks it.
    ///
    /// - Throws: `unsupported` without a removable medium; `busy`, `io`.
    public func lock(_ isLocked: Bool) throws(BlockError) { try requireDrive().lock(isLocked) }

    private func requireDrive() throws(BlockError) -> any RemovableMedium {
        if let drive { return drive }
        throw BlockError(
            .unsupported, "Driver '\(innermost.driverName)' has no removable medium: '\(filename)'",
            path: filename)
    }

    /// The node at the end of the way down the files.
    var innermost: BlockNode {
        var node = self
        while let below = node.shownChild ?? node.file { node = below }
        return node
    }
}
