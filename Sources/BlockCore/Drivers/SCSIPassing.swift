/// A SCSI command as the guest states it.
public struct SCSICommand: Sendable, Equatable {
    /// The direction in which the command moves data.
    public enum Direction: Sendable { case none, toDevice, fromDevice }

    /// The lengths that a command block may have, in bytes.
    public static let lengths = 6...32

    /// The command block, operation code first.
    public let bytes: [UInt8]
    /// The direction of the data.
    public let direction: Direction
    /// The time after which the command is given up, in milliseconds.
    public let timeoutMilliseconds: UInt32

    /// A command of these bytes.
    ///
    /// - Throws: `invalidArgument` for a command block of no valid length.
    public init(
        _ bytes: [UInt8], _ direction: Direction = .none, timeoutMilliseconds: UInt32 = 30_000
    ) throws(BlockError) {
        guard Self.lengths.contains(bytes.count) else {
            throw BlockError(.invalidArgument, "A SCSI command of \(bytes.count) bytes is not valid")
        }
        self.bytes = bytes
        self.direction = direction
        self.timeoutMilliseconds = timeoutMilliseconds
    }

    /// The operation codes of commands that change neither the medium nor the settings of the device.
    private static let reading: Set<UInt8> = [
        // Test unit ready, request sense, read (6), inquiry, mode sense (6), read format capacities,
        // capacity.
        0x00, 0x03, 0x08, 0x12, 0x1A, 0x23, 0x25,
        // Read (10), sub-channel, table of contents, configuration, events, disc, track, log and mode sense.
        0x28, 0x42, 0x43, 0x46, 0x4A, 0x4D, 0x51, 0x52, 0x5A,
        // Read (16), report LUNs, read (12), DVD structure, mechanism status, read CD.
        0x88, 0xA0, 0xA8, 0xAD, 0xBD, 0xBE,
    ]

    /// Whether a read-only node passes the command on.
    public var onlyReads: Bool {
        direction != .toDevice && bytes.first.map { Self.reading.contains($0) } == true
    }
}

/// The answer of a device to a SCSI command.
public struct SCSIResult: Sendable, Equatable {
    /// The status byte of the device: 0 for good, 2 for "check condition".
    public var status: UInt8
    /// The failure of the host's adapter, in Linux's numbers; 0 for none.
    public var hostStatus: UInt16
    /// The failure of the host's driver, in Linux's numbers; 0 for none.
    public var driverStatus: UInt16
    /// The bytes that were not moved.
    public var residualBytes: Int
    /// The sense data; empty for none.
    public var sense: [UInt8]

    /// An answer of these values; that of a successful command without an argument.
    public init(
        status: UInt8 = 0, hostStatus: UInt16 = 0, driverStatus: UInt16 = 0, residualBytes: Int = 0,
        sense: [UInt8] = []
    ) {
        self.status = status
        self.hostStatus = hostStatus
        self.driverStatus = driverStatus
        self.residualBytes = residualBytes
        self.sense = sense
    }
}

/// A control request (ioctl) that is passed on: one of those whose argument has a known size and no
/// addresses.
public struct DeviceRequest: Sendable, Equatable {
    /// Linux's number of the request.
    public let number: UInt
    /// The size of the argument in bytes.
    public let byteCount: Int

    /// The version of the host's SCSI interface, as 32 bits.
    public static let version = DeviceRequest(0x2282, 4)
    /// Whether the host emulates SCSI, as 32 bits.
    public static let emulatedHost = DeviceRequest(0x2203, 4)
    /// Sets the time limit of commands, as 32 bits.
    public static let setTimeout = DeviceRequest(0x2201, 4)
    /// The size of the reserved buffer in bytes, as 32 bits.
    public static let reservedSize = DeviceRequest(0x2272, 4)
    /// Sets the size of the reserved buffer in bytes, as 32 bits.
    public static let setReservedSize = DeviceRequest(0x2275, 4)
    /// The address of the device (`struct sg_scsi_id`).
    public static let address = DeviceRequest(0x2276, 32)
    /// The host, channel, id and LUN in one number, and the host's own number.
    public static let packedAddress = DeviceRequest(0x5382, 8)
    /// The number of the host's adapter, as 32 bits.
    public static let busNumber = DeviceRequest(0x5386, 4)

    /// Every request that is passed on.
    public static let all: [DeviceRequest] = [
        .version, .emulatedHost, .setTimeout, .reservedSize, .setReservedSize, .address, .packedAddress,
        .busNumber,
    ]

    private init(_ number: UInt, _ byteCount: Int) {
        self.number = number
        self.byteCount = byteCount
    }

    /// The request of that number; `nil` for one that is not passed on.
    public init?(number: UInt) {
        guard let known = Self.all.first(where: { $0.number == number }) else { return nil }
        self = known
    }
}

/// Storage that takes SCSI commands.
///
/// Thread-safe, as the driver is.
public protocol SCSIPassing: ProtocolDriver {
    /// Whether the device takes only commands: it has no length, and is neither read nor written.
    var isSCSIGeneric: Bool { get }
    /// Sends a command and moves its data from or to `data`, which is empty for a command without data.
    ///
    /// - Returns: what the device answered, also when it reports a failure.
    /// - Throws: `unsupported` for a device that takes no commands; `limit` for more data than a command can
    ///   move; `notFound` without a medium; `busy`, `io`.
    func send(_ command: SCSICommand, data: inout MutableRawSpan) throws(BlockError) -> SCSIResult
    /// Passes a control request on; `argument` is read or changed.
    ///
    /// - Returns: what the request answered besides.
    /// - Throws: `invalidArgument` when `argument` is too short; as ``send(_:data:)``.
    func control(_ request: DeviceRequest, _ argument: inout MutableRawSpan) throws(BlockError) -> Int
}
