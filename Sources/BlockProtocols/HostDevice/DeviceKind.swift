import BlockCore
import CHost
import SystemPackage

/// The kind of a host's device, by its status and its answers to control requests.
enum DeviceKind: Sendable, Equatable {
    case none
    case block
    case cdrom
    case character
    /// A character device that takes SCSI commands.
    case scsiGeneric

    /// The version of the SCSI interface from which on commands are sent as here.
    private static let oldestVersion = 30_000

    init(of file: HostFile, _ calls: any DeviceControl) {
        self.init(file.kind, file.descriptor, calls)
    }

    init(_ kind: FileStatus.Kind, _ descriptor: Int32, _ calls: any DeviceControl) {
        switch kind {
        case .blockDevice: self = Self.isCdrom(descriptor, calls) ? .cdrom : .block
        case .characterDevice: self = Self.isGeneric(descriptor, calls) ? .scsiGeneric : .character
        case .regular, .directory, .other: self = .none
        }
    }

    /// Whether the device answers what its slot holds, as CD-ROM drives alone do, also empty ones.
    private static func isCdrom(_ descriptor: Int32, _ calls: any DeviceControl) -> Bool {
        let slot = Int(PLATTER_CDROM_CURRENT_SLOT)
        return (try? calls.control(descriptor, UInt(PLATTER_CDROM_DRIVE_STATUS), value: slot)) != nil
    }

    private static func isGeneric(_ descriptor: Int32, _ calls: any DeviceControl) -> Bool {
        let version = try? calls.number(descriptor, UInt64(PLATTER_SG_VERSION))
        // The answer is a C int, in the first four bytes.
        return version.map { Int(UInt32(truncatingIfNeeded: $0)) >= oldestVersion } == true
    }

    /// The driver that is the surest of an open device.
    static func driver(
        of file: HostFile, _ calls: any DeviceControl = SystemDeviceControl()
    ) -> any ProtocolDriver {
        let kind = DeviceKind(of: file, calls)
        return HostCdromName.score(kind) > HostDeviceName.score(kind)
            ? HostCdromDriver(file, calls) : HostDeviceDriver(file, calls)
    }
}

/// One of the names of ``HostDevice``, with the devices that it stands for.
public protocol DeviceName: Sendable {
    /// The name in `driver=` options and in `info`.
    static var name: String { get }
}

/// The name `host_device`: block devices, and character devices.
public enum HostDeviceName: DeviceName { public static let name = "host_device" }
/// The name `host_cdrom`: CD-ROM drives.
public enum HostCdromName: DeviceName { public static let name = "host_cdrom" }

extension DeviceName {
    static var isCdrom: Bool { name == HostCdromName.name }

    /// The device that the driver is for, in messages.
    static var needs: String { isCdrom ? "a CD-ROM drive" : "either a character or block device" }

    /// How sure the driver is that a device is one of its own: 0 (no) to 100.
    static func score(_ kind: DeviceKind) -> Int {
        switch kind {
        case .none: 0
        case .cdrom: isCdrom ? 100 : 50
        case .block, .character, .scsiGeneric: isCdrom ? 0 : 50
        }
    }
}
