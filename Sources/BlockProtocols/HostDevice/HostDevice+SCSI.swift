import BlockCore
import SystemPackage

/// SCSI commands and control requests to disks, CD-ROM drives and SCSI generic devices.
extension HostDevice: SCSIPassing {
    public var isSCSIGeneric: Bool { DeviceKind(of: file, calls) == .scsiGeneric }

    /// - Throws: `unsupported` for a device that takes no commands; `limit`; `notFound`, `busy`, `io`.
    public func send(
        _ command: SCSICommand, data: inout MutableRawSpan
    ) throws(BlockError) -> SCSIResult {
        guard UInt32(exactly: data.byteCount) != nil else {
            throw BlockError(.limit, "A SCSI command moves at most 4 GiB", path: file.path)
        }
        do throws(Errno) { return try calls.send(file.descriptor, command, &data) } catch {
            throw failure(error, "SCSI commands")
        }
    }

    /// - Throws: `invalidArgument` for a short argument; `unsupported`, `notFound`, `busy`, `io`.
    public func control(
        _ request: DeviceRequest, _ argument: inout MutableRawSpan
    ) throws(BlockError) -> Int {
        guard argument.byteCount >= request.byteCount else {
            throw BlockError(
                .invalidArgument,
                "The argument of request \(request.number) needs \(request.byteCount) bytes, not "
                    + "\(argument.byteCount)", path: file.path)
        }
        do throws(Errno) { return try calls.control(file.descriptor, request.number, &argument) } catch {
            throw failure(error, "the request \(request.number)")
        }
    }
}
