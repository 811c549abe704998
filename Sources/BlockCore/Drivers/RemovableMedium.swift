/// What a drive with a removable medium holds.
public enum MediumState: String, Sendable, CaseIterable {
    /// A medium that can be read.
    case inserted
    /// No medium; the drive is closed, or has no tray.
    case empty
    /// The tray is open.
    case open
    /// The drive is still looking at the medium.
    case notReady
}

/// Storage in a drive whose medium can be taken out: a CD-ROM drive, a card reader.
///
/// Thread-safe, as the driver is.
public protocol RemovableMedium: ProtocolDriver {
    /// Whether the medium of this very device can be taken out; other calls throw `unsupported` if not.
    var isRemovable: Bool { get }
    /// What the drive holds now.
    ///
    /// - Throws: `unsupported` when the device has no such state; `io`.
    func mediumState() throws(BlockError) -> MediumState
    /// Whether the medium was changed since the last call, or since the device was opened. A changed medium
    /// has its length and bytes read anew.
    ///
    /// - Throws: `unsupported` when the drive cannot tell; `io`.
    func mediaChanged() throws(BlockError) -> Bool
    /// Takes the medium out: opens the tray.
    ///
    /// - Parameter force: whether a lock is taken away first.
    /// - Throws: `busy` for a locked medium, or one that another program uses; `notFound` without a medium;
    ///   `unsupported`, `io`.
    func eject(force: Bool) throws(BlockError)
    /// Closes the tray.
    ///
    /// - Throws: `notFound` without a medium, from drives that tell; `busy`, `unsupported`, `io`.
    func load() throws(BlockError)
    /// Keeps the medium from being taken out by hand, or allows it again.
    ///
    /// - Throws: `busy` when another program has locked it; `unsupported`, `io`.
    func lock(_ isLocked: Bool) throws(BlockError)
}
