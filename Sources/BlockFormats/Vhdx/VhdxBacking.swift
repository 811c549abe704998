import BlockCore

/// Differencing images and their parents.
extension VhdxDriver: BackingChecking, ParentIdentifying {
    /// The parent that the image names.
    ///
    /// - Throws: `corrupt`, `unsupported` for an unusable locator, if the parent is needed.
    static func findParent(
        _ state: VhdxState, _ request: OpenRequest
    ) throws(BlockError) -> BackingReference? {
        guard state.geometry.hasParent else { return nil }
        let settings = request.settings
        let isNeeded =
            !request.namesBacking && !settings.metadataOnly && !settings.withoutBacking && !settings.forCheck
        do throws(BlockError) {
            let names = try state.parentLocator().filenames
            guard let name = names.first else {
                throw BlockError(.corrupt, "The VHDX image does not say what it is based on")
            }
            return BackingReference(
                filename: name, format: VhdxDriver.name, otherNames: Array(names.dropFirst()))
        } catch {
            if isNeeded { throw error }
            return nil
        }
    }

    /// The parent must be the image that this one was made over, unchanged since.
    ///
    /// - Throws: `corrupt` for another or a changed image.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard let bytes = backing.parentIdentity(of: Self.name) else {
            return try checkForeignParent(backing)
        }
        let identity = ImageUUID(bytes: bytes)
        let linkages = try session.withLock { (state) throws(BlockError) in
            state.geometry.hasParent ? try state.parentLocator().linkages : [identity]
        }
        guard linkages.contains(identity) else {
            throw BlockError(
                .corrupt,
                "The parent '\(backing.filename)' is not the image that this one was made over, or was "
                    + "changed since (it is \(identity.text), not \(linkages.first?.text ?? "none"))",
                path: file.filename,
                hint: "Where its contents are the right ones all the same, "
                    + "'rebase -u' says so in the image.")
        }
    }

    /// A parent of another format has no such identity; it is accepted only if the caller names it.
    private func checkForeignParent(_ backing: BlockNode) throws(BlockError) {
        guard !request.namesBacking else { return }
        throw BlockError(
            .corrupt, "The parent '\(backing.filename)' is no VHDX image", path: file.filename)
    }

    /// The data write GUIDs of `parent` now and after its next change, by which children identify it.
    ///
    /// - Throws: `unsupported` when it is not a VHDX image.
    static func identities(of parent: BlockNode) throws(BlockError) -> (now: ImageUUID, next: ImageUUID) {
        guard let now = parent.parentIdentity(of: name), let next = parent.nextParentIdentity(of: name) else {
            throw isNoParent(parent)
        }
        return (ImageUUID(bytes: now), ImageUUID(bytes: next))
    }

    static func isNoParent(_ node: BlockNode) -> BlockError {
        BlockError(.unsupported, "The parent '\(node.filename)' is no VHDX image", path: node.filename)
    }

    /// The data write GUID, by which children identify this image's data.
    public var parentIdentity: [UInt8] { session.withLock { $0.headers.current.dataWriteGUID.bytes } }
    public func nextParentIdentity() -> [UInt8] { session.withLock { $0.nextDataGUID().bytes } }
}

extension VhdxState {
    /// - Throws: `corrupt` when there is none.
    func parentLocator() throws(BlockError) -> VhdxParentLocator {
        guard let bytes = metadata.locator else {
            throw BlockError(.corrupt, "The VHDX image does not say what it is based on")
        }
        return try VhdxParentLocator(parsing: bytes.span.bytes)
    }
}
