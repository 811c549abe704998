import BlockCore
import CHost
import SystemPackage

/// The control calls (ioctl) on open devices, all in one place: tests put a device of their own here.
///
/// Thread-safe.
protocol DeviceControl: Sendable {
    /// Sends a control request whose argument is a number.
    ///
    /// - Returns: what the call returned.
    func control(_ descriptor: Int32, _ request: UInt, value: Int) throws(Errno) -> Int
    /// Sends a control request whose argument is `bytes`, as long as the request needs.
    ///
    /// - Returns: what the call returned.
    func control(_ descriptor: Int32, _ request: UInt, _ bytes: inout MutableRawSpan) throws(Errno) -> Int
    /// Sends a SCSI command; `data` holds at most `UInt32.max` bytes.
    func send(
        _ descriptor: Int32, _ command: SCSICommand, _ data: inout MutableRawSpan
    ) throws(Errno) -> SCSIResult
}

extension DeviceControl {
    /// The 64 bits that a request answers.
    func number(_ descriptor: Int32, _ request: UInt64) throws(Errno) -> UInt64 {
        guard request != 0 else { throw .notSupported }
        let buffer = AlignedBuffer(count: MemoryLayout<UInt64>.size, zeroed: true)
        var bytes = buffer.mutableBytes
        _ = try control(descriptor, UInt(truncatingIfNeeded: request), &bytes)
        return buffer.bytes.unsafeLoad(as: UInt64.self)
    }
}

/// The system's own calls.
struct SystemDeviceControl: DeviceControl {
    /// The most sense data that is taken, in bytes.
    private static let senseBytes: UInt8 = 252

    func control(_ descriptor: Int32, _ request: UInt, value: Int) throws(Errno) -> Int {
        var answer: Int32 = 0
        try checked(platter_control_value(descriptor, UInt64(request), Int64(value), &answer))
        return Int(answer)
    }

    func control(_ descriptor: Int32, _ request: UInt, _ bytes: inout MutableRawSpan) throws(Errno) -> Int {
        var answer: Int32 = 0
        let code = bytes.withUnsafeMutableBytes { pointer in
            platter_control_bytes(descriptor, UInt64(request), pointer.baseAddress, &answer)
        }
        try checked(code)
        return Int(answer)
    }

    func send(
        _ descriptor: Int32, _ command: SCSICommand, _ data: inout MutableRawSpan
    ) throws(Errno) -> SCSIResult {
        var raw = platter_scsi_command()
        raw.direction =
            switch command.direction {
            case .none: UInt8(PLATTER_SCSI_NO_DATA)
            case .toDevice: UInt8(PLATTER_SCSI_TO_DEVICE)
            case .fromDevice: UInt8(PLATTER_SCSI_FROM_DEVICE)
            }
        raw.timeout_milliseconds = command.timeoutMilliseconds
        raw.command_bytes = UInt8(truncatingIfNeeded: command.bytes.count)
        raw.data_bytes = UInt32(clamping: data.byteCount)
        raw.sense_bytes = Self.senseBytes
        var sense = [UInt8](repeating: 0, count: Int(Self.senseBytes))
        let code = command.bytes.withUnsafeBytes { block in
            data.withUnsafeMutableBytes { data in
                sense.withUnsafeMutableBytes { sense in
                    raw.command = block.baseAddress
                    raw.data = data.baseAddress
                    raw.sense = sense.baseAddress
                    return platter_scsi_send(descriptor, &raw)
                }
            }
        }
        try checked(code)
        return SCSIResult(
            status: raw.status, hostStatus: raw.host_status, driverStatus: raw.driver_status,
            residualBytes: Int(raw.residual), sense: Array(sense.prefix(Int(raw.sense_bytes))))
    }
}
