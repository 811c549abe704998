/// The tray of a device: media that are taken out and put in.
///
/// A device over a drive of the host (``BlockNode/isRemovable``) moves that drive's tray, and keeps its node.
/// Any other has a tray of its own, and its medium is the top node: ejecting takes the node out.
extension BlockDevice {
    /// The tray of a device without a drive of the host, and who follows its changes.
    struct Tray {
        var isOpen = false
        var isLocked = false
        /// Whether the medium was changed since somebody asked.
        var hasChanged = false
        var follower: (@Sendable (MediumChange) -> Void)?
    }

    /// A change of a device's tray, as ``onMediumChange(_:)`` passes it.
    public struct MediumChange: Sendable, Equatable {
        /// Whether the tray is open now.
        public var isOpen: Bool
        /// Whether there is a medium now.
        public var hasMedium: Bool

        /// A change that ended so.
        public init(isOpen: Bool, hasMedium: Bool) {
            self.isOpen = isOpen
            self.hasMedium = hasMedium
        }
    }

    /// Sets what is called after each change of the tray, on the thread that made it and without locks; `nil`
    /// for nothing.
    public func onMediumChange(_ body: (@Sendable (MediumChange) -> Void)?) {
        state.withLock { $0.tray.follower = body }
    }

    /// Whether there is a medium in the closed tray.
    ///
    /// - Throws: `io`, from a drive of the host.
    public func isInserted() throws(BlockError) -> Bool {
        let (root, isOpen) = state.withLock { ($0.root, $0.tray.isOpen) }
        guard let root, !isOpen else { return false }
        return try root.isInserted()
    }

    /// Whether the tray is open.
    ///
    /// - Throws: `io`, from a drive of the host.
    public func isTrayOpen() throws(BlockError) -> Bool {
        if let root, root.isRemovable { return try root.mediumState() == .open }
        return state.withLock { $0.tray.isOpen }
    }

    /// Whether the guest has locked the tray.
    public var isLocked: Bool { state.withLock { $0.tray.isLocked } }

    /// Whether the medium was changed since the last call.
    ///
    /// - Throws: `unsupported` when a drive of the host cannot tell; `io`.
    public func mediaChanged() throws(BlockError) -> Bool {
        let root = root
        let hasChanged = state.withLock { state in
            defer { state.tray.hasChanged = false }
            return state.tray.hasChanged
        }
        // The drive's own mark is taken back too, whatever the device's own says.
        let driveHasChanged = try root?.mediaChanged() == true
        return hasChanged || driveHasChanged
    }

    /// Locks the tray, or unlocks it: ejecting then needs force.
    ///
    /// - Throws: `busy` when another program has locked the host's drive; `unsupported`, `io`.
    public func lock(_ isLocked: Bool) throws(BlockError) {
        if let root, root.isRemovable { try root.lock(isLocked) }
        state.withLock { $0.tray.isLocked = isLocked }
    }

    /// Opens the tray and takes the medium out, after flushing it and waiting for the requests under way.
    ///
    /// - Parameter force: whether a locked tray is unlocked first.
    /// - Returns: the node that was the medium, which the caller closes or puts in again; `nil` for an empty
    ///   tray, and for a drive of the host, which stays the device's top node.
    /// - Throws: `busy` for a locked tray without `force`, and while a job uses the medium; `noSpace`, `io`
    ///   when
    ///   the medium cannot be flushed, which leaves it in.
    @discardableResult
    public func eject(force: Bool = false) throws(BlockError) -> BlockNode? {
        guard force || !isLocked else {
            throw BlockError(
                .busy,
                "Device '\(name)' is locked and force was not specified, wait for tray to open and try again",
                path: name)
        }
        let medium = try drained { () throws(BlockError) -> BlockNode? in
            guard let root else { return nil }
            let use = NodeUse(by: "ejecting")
            let nodes = root.chain
            try use.begin(on: nodes)
            defer { use.end(on: nodes) }
            use.ownedByThisThread()
            if root.isRemovable {
                try root.eject(force: force)
                return nil
            }
            try root.flush()
            root.deviceName = nil
            state.withLock { $0.root = nil }
            return root
        }
        changeTray(isOpen: true) { tray in tray.isLocked = false }
        return medium
    }

    /// Puts a medium in, if one is given, and closes the tray.
    ///
    /// - Parameter medium: the top node from now on, which the device owns and closes; `nil` to close the
    ///   tray
    ///   as it is, also that of a drive of the host.
    /// - Throws: `exists` when there is a medium already, and for a drive of the host; `io` once the device
    ///   is
    ///   closed; `busy`, `notFound`, `unsupported`, `io` from a drive of the host.
    public func load(_ medium: BlockNode? = nil) throws(BlockError) {
        guard let medium else {
            if let root, root.isRemovable { try root.load() }
            return changeTray(isOpen: false) { _ in }
        }
        try drained { () throws(BlockError) in
            try state.withLock { (state) throws(BlockError) in
                if state.isClosed { throw BlockError(.io, "The device is closed", path: name) }
                guard state.root == nil else {
                    throw BlockError(.exists, "Device '\(name)' has a medium already", path: name)
                }
                state.root = medium
            }
            medium.deviceName = name
        }
        changeTray(isOpen: false) { _ in }
    }

    /// Opens or closes the tray, and calls its follower.
    private func changeTray(isOpen: Bool, _ change: (inout Tray) -> Void) {
        let (follower, now) = state.withLock { state in
            state.tray.isOpen = isOpen
            state.tray.hasChanged = true
            change(&state.tray)
            return (state.tray.follower, MediumChange(isOpen: isOpen, hasMedium: state.root != nil))
        }
        follower?(now)
    }
}

/// Commands that are passed to the device below. Errors are reported, whatever the policy.
extension BlockDevice {
    /// Sends a SCSI command to the device below the top node.
    ///
    /// - Parameter data: the data of the command; empty for a command without data.
    /// - Returns: what the device answered, also when it reports a failure.
    /// - Throws: `notFound` without a medium; as ``BlockNode/send(_:data:)``.
    public func send(_ command: SCSICommand, data: inout MutableRawSpan) throws(BlockError) -> SCSIResult {
        let node = try enter()
        defer { leave() }
        return try node.send(command, data: &data)
    }

    /// Passes a control request to the device below the top node.
    ///
    /// - Parameter argument: the bytes that the request reads or changes.
    /// - Returns: what the request answered besides.
    /// - Throws: `notFound` without a medium; as ``BlockNode/control(_:_:)``.
    public func control(
        _ request: DeviceRequest, _ argument: inout MutableRawSpan
    ) throws(BlockError) -> Int {
        let node = try enter()
        defer { leave() }
        return try node.control(request, &argument)
    }
}
