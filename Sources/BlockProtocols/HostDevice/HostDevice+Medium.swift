import BlockCore
import CHost
import Synchronization
import SystemPackage

/// What is known of a device's medium.
struct MediumRecord: Sendable {
    var readOnly: Bool
    /// The number of changes of the medium when it was last asked for; `nil` where the system counts none.
    var sequence: UInt64?
    /// Whether the device states that its medium can be taken out; `nil` until it was asked.
    var isRemovable: Bool?
}

/// Media that can be taken out. CD-ROM drives have requests of their own; of other devices, those are
/// removable that state it in their answer to a SCSI inquiry, which floppy disks do not take.
extension HostDevice: RemovableMedium {
    public var isRemovable: Bool {
        if Name.isCdrom { return true }
        if let known = medium.withLock({ $0.isRemovable }) { return known }
        let answer = file.kind != .characterDevice && saysRemovable()
        medium.withLock { $0.isRemovable = answer }
        return answer
    }

    /// Sends an inquiry: the highest bit of the second byte is set for removable media.
    private func saysRemovable() -> Bool {
        let buffer = AlignedBuffer(count: 36, zeroed: true)
        var data = buffer.mutableBytes
        guard let command = try? SCSICommand([0x12, 0, 0, 0, 36, 0], .fromDevice, timeoutMilliseconds: 5000),
            let result = try? calls.send(file.descriptor, command, &data), result.status == 0
        else { return false }
        return buffer.bytes.unsafeLoad(fromByteOffset: 1, as: UInt8.self) & 0x80 != 0
    }

    /// - Throws: `unsupported` for a device without a removable medium; `io`.
    public func mediumState() throws(BlockError) -> MediumState {
        try requireRemovable("a state of its medium")
        guard Name.isCdrom else { return try hasLength() ? .inserted : .empty }
        let slot = Int(PLATTER_CDROM_CURRENT_SLOT)
        switch try request(PLATTER_CDROM_DRIVE_STATUS, slot, "a state of its medium") {
        case PLATTER_CDROM_DISC_OK: return .inserted
        case PLATTER_CDROM_TRAY_OPEN: return .open
        case PLATTER_CDROM_NOT_READY: return .notReady
        case PLATTER_CDROM_NO_INFO: return try hasLength() ? .inserted : .empty
        default: return .empty
        }
    }

    private func hasLength() throws(BlockError) -> Bool {
        do throws(Errno) { return try calls.number(file.descriptor, platter_request_size()) > 0 } catch {
            if error == .noMedium { return false }
            throw failure(error, "a length")
        }
    }

    /// - Throws: `unsupported` for a drive that cannot tell; `io`.
    public func mediaChanged() throws(BlockError) -> Bool {
        try requireRemovable("a change of its medium")
        let hasChanged =
            try Name.isCdrom
            ? request(
                PLATTER_CDROM_MEDIA_CHANGED, Int(PLATTER_CDROM_CURRENT_SLOT), "a change of its medium") != 0
            : sequenceChanged()
        // The kernel drops the old medium's pages and length when the device is opened.
        if hasChanged { try file.reopen(readOnly: medium.withLock { $0.readOnly }) }
        return hasChanged
    }

    private func sequenceChanged() throws(BlockError) -> Bool {
        guard let now = Self.sequence(of: file, calls) else {
            throw failure(.notSupported, "a change of its medium")
        }
        return medium.withLock { record in
            defer { record.sequence = now }
            return record.sequence != now
        }
    }

    static func sequence(of file: HostFile, _ calls: any DeviceControl) -> UInt64? {
        guard file.kind != .characterDevice, !Name.isCdrom else { return nil }
        return try? calls.number(file.descriptor, platter_request_sequence())
    }

    /// - Throws: `busy` for a locked medium; `notFound` without one; `unsupported`, `io`.
    public func eject(force: Bool) throws(BlockError) {
        try requireRemovable("ejecting")
        if force { try lock(false) }
        _ = try request(PLATTER_CDROM_EJECT, 0, "ejecting")
    }

    /// - Throws: `busy`, `notFound`, `unsupported`, `io`.
    public func load() throws(BlockError) {
        try requireRemovable("loading")
        _ = try request(PLATTER_CDROM_CLOSE_TRAY, 0, "loading")
    }

    /// - Throws: `busy`, `unsupported`, `io`.
    public func lock(_ isLocked: Bool) throws(BlockError) {
        try requireRemovable("locking")
        if Name.isCdrom {
            _ = try request(PLATTER_CDROM_LOCK_DOOR, isLocked ? 1 : 0, "locking")
        } else {
            _ = try request(isLocked ? PLATTER_SCSI_LOCK_DOOR : PLATTER_SCSI_UNLOCK_DOOR, 0, "locking")
        }
    }

    // MARK: Requests

    private func request(_ number: Int, _ value: Int, _ what: String) throws(BlockError) -> Int {
        do throws(Errno) { return try calls.control(file.descriptor, UInt(number), value: value) } catch {
            throw failure(error, what)
        }
    }

    private func requireRemovable(_ what: String) throws(BlockError) {
        if !isRemovable { throw failure(.notSupported, what) }
    }

    /// The error for a failed request for `what`.
    func failure(_ code: Errno, _ what: String) -> BlockError {
        if code == .noMedium {
            return BlockError(.notFound, "No medium found", errno: code.rawValue, path: file.path)
        }
        guard code.meansUnsupported || code == .invalidArgument else { return .system(code, path: file.path) }
        return BlockError(
            .unsupported, "Driver '\(Self.name)': '\(file.path)' has not \(what)", errno: code.rawValue,
            path: file.path)
    }
}

extension Errno {
    /// ENOMEDIUM of Linux.
    static var noMedium: Errno { Errno(rawValue: 123) }
}
