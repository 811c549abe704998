import BlockCore
import CHost
import Synchronization
import SystemPackage

@testable import BlockProtocols

/// A device behind the seam of control calls: it answers what a test states, and records what it is asked.
final class FakeDevice: DeviceControl {
    struct Call: Equatable {
        var request: UInt
        /// The number, or the length of the bytes.
        var value: Int
    }

    struct State {
        var values: [UInt: Result<Int, Errno>] = [:]
        var bytes: [UInt: Result<[UInt8], Errno>] = [:]
        var calls: [Call] = []
        var commands: [SCSICommand] = []
        var result: Result<SCSIResult, Errno> = .failure(.inappropriateIOCTLForDevice)
        /// The data of a command from the device; those of one to the device.
        var reply: [UInt8] = []
        var received: [UInt8] = []
    }

    private let state = Mutex(State())

    /// A drive that holds a medium.
    static func cdrom() -> FakeDevice {
        let device = FakeDevice()
        device.answer(PLATTER_CDROM_DRIVE_STATUS, .success(Int(PLATTER_CDROM_DISC_OK)))
        device.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(0))
        for request in [PLATTER_CDROM_EJECT, PLATTER_CDROM_CLOSE_TRAY, PLATTER_CDROM_LOCK_DOOR] {
            device.answer(request, .success(0))
        }
        return device
    }

    /// A disk that states in its inquiry whether it is removable.
    static func disk(isRemovable: Bool) -> FakeDevice {
        let device = FakeDevice()
        device.state.withLock { state in
            state.result = .success(SCSIResult())
            state.reply = [0, isRemovable ? 0x80 : 0]
        }
        return device
    }

    var calls: [Call] { state.withLock { $0.calls } }
    var commands: [SCSICommand] { state.withLock { $0.commands } }
    var received: [UInt8] { state.withLock { $0.received } }
    func forget() { state.withLock { $0.calls = [] } }
    func answer(_ request: Int, _ answer: Result<Int, Errno>) {
        state.withLock { $0.values[UInt(request)] = answer }
    }
    func answer(bytes request: UInt, _ answer: Result<[UInt8], Errno>) {
        state.withLock { $0.bytes[request] = answer }
    }
    func answer(number request: UInt64, _ number: UInt64) {
        answer(bytes: UInt(request), .success(withUnsafeBytes(of: number) { Array($0) }))
    }
    func answer(commands result: Result<SCSIResult, Errno>, _ reply: [UInt8] = []) {
        state.withLock { ($0.result, $0.reply) = (result, reply) }
    }

    func control(_ descriptor: Int32, _ request: UInt, value: Int) throws(Errno) -> Int {
        let answer = state.withLock { state in
            state.calls.append(Call(request: request, value: value))
            return state.values[request] ?? .failure(.inappropriateIOCTLForDevice)
        }
        return try answer.get()
    }

    func control(_ descriptor: Int32, _ request: UInt, _ bytes: inout MutableRawSpan) throws(Errno) -> Int {
        let answer = state.withLock { state in
            state.calls.append(Call(request: request, value: bytes.byteCount))
            return state.bytes[request] ?? .failure(.inappropriateIOCTLForDevice)
        }
        let reply = try answer.get()
        bytes.withUnsafeMutableBytes { $0.copyBytes(from: reply.prefix($0.count)) }
        return 0
    }

    func send(
        _ descriptor: Int32, _ command: SCSICommand, _ data: inout MutableRawSpan
    ) throws(Errno) -> SCSIResult {
        let sent = data.withUnsafeMutableBytes { Array($0) }
        let (result, reply) = state.withLock { state in
            state.commands.append(command)
            if command.direction == .toDevice { state.received = sent }
            return (state.result, state.reply)
        }
        let answer = try result.get()
        if command.direction == .fromDevice {
            data.withUnsafeMutableBytes { $0.copyBytes(from: reply.prefix($0.count)) }
        }
        return answer
    }
}
