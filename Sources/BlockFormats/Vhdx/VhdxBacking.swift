import BlockCore

/// Differencing images and their parents.
extension VhdxDriver: BackingChecking, ParentIdentifying {
    /// The parent that the image names.
    ///
    /// - Throws: `corrupt`, `unsupported` for a locator that cannot be used, where the parent is needed.
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

    /// The parent must be the image that this one was made over, with the data that it had then.
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

    /// Another format has no such identity; the caller may vouch for it by naming it.
    private func checkForeignParent(_ backing: BlockNode) throws(BlockError) {
        guard !request.namesBacking else { return }
        throw BlockError(
            .corrupt, "The parent '\(backing.filename)' is no VHDX image", path: file.filename)
    }

    /// What children know the data of `parent` by, now and after its next change.
    ///
    /// - Throws: `unsupported` when it is no VHDX image.
    static func identities(of parent: BlockNode) throws(BlockError) -> (now: ImageUUID, next: ImageUUID) {
        guard let now = parent.parentIdentity(of: name), let next = parent.nextParentIdentity(of: name) else {
            throw isNoParent(parent)
        }
        return (ImageUUID(bytes: now), ImageUUID(bytes: next))
    }

    static func isNoParent(_ node: BlockNode) -> BlockError {
        BlockError(.unsupported, "The parent '\(node.filename)' is no VHDX image", path: node.filename)
    }

    /// What children know this image's data by: its data write GUID.
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
