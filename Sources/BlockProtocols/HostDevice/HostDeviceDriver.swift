import BlockCore
import CHost
import Synchronization
import SystemPackage

/// The driver of block devices, and of character devices that have no length.
public typealias HostDeviceDriver = HostDevice<HostDeviceName>
/// The driver of CD-ROM drives.
public typealias HostCdromDriver = HostDevice<HostCdromName>

/// The source of zeroes that are written as data.
private let zeroes = AlignedBuffer(count: 256 << 10, zeroed: true)

/// A block device of the host, or a character device that has no length.
///
/// Thread-safe. The length cannot be changed. Discarding and zeroing in place are for whole sectors.
public final class HostDevice<Name: DeviceName>: UseDeclaring {
    public static var name: String { Name.name }

    let file: HostFile
    /// The control calls to the device.
    let calls: any DeviceControl
    let medium: Mutex<MediumRecord>
    private let lacksFastZeroes = Atomic<Bool>(false)

    /// Drives an open file of any kind; the caller may call ``checkDevice(_:_:)`` first.
    init(_ file: HostFile, _ calls: any DeviceControl = SystemDeviceControl()) {
        self.file = file
        self.calls = calls
        medium = Mutex(
            MediumRecord(readOnly: file.options.readOnly, sequence: Self.sequence(of: file, calls)))
    }

    /// Checks that a file is a device of the driver's kind.
    ///
    /// - Throws: `invalidArgument` for a file that is no device; `unsupported` for a device of another kind.
    static func checkDevice(
        _ file: HostFile, _ calls: any DeviceControl = SystemDeviceControl()
    ) throws(BlockError) {
        guard file.kind == .blockDevice || file.kind == .characterDevice else {
            throw BlockError(
                .invalidArgument,
                "'\(name)' driver requires '\(file.path)' to be either a character or block device",
                path: file.path)
        }
        if Name.score(DeviceKind(of: file, calls)) == 0 {
            throw BlockError(
                .unsupported, "'\(name)' driver requires '\(file.path)' to be \(Name.needs)",
                path: file.path)
        }
    }

    // MARK: Properties of the device

    /// - Throws: `io`.
    public func length() throws(BlockError) -> Int {
        if file.kind == .characterDevice { return 0 }
        var bytes: Int64 = 0
        try reporting(file.path) { () throws(Errno) in
            try checked(platter_device_size(file.descriptor, &bytes))
        }
        return Int(bytes)
    }

    public func allocatedSize() -> Int? { try? FileStatus(file.descriptor).allocatedBytes }
    public var identity: String? { file.identity }
    public var requestAlignment: Int { file.alignment }
    public var zeroInitialised: Bool { false }

    /// The whole range is data: devices have no map of their holes.
    ///
    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: offset), length: limit)
    }

    // MARK: Requests

    /// - Throws: `io`; `noSpace` for an offset that overflows.
    public func read(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        try file.read(into: &buffer, at: offset)
    }

    /// - Throws: `io`, `noSpace`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        try file.write(bytes, at: offset)
    }

    /// - Throws: `io`, `noSpace`.
    public func flush() throws(BlockError) { try file.flush() }

    /// - Throws: `busy`, `io`, `unsupported`.
    public func declareUse(toleratingWriters: Bool) throws(BlockError) {
        try file.declareUse(toleratingWriters: toleratingWriters)
    }

    /// - Throws: `busy`, `notFound`, `io`, `unsupported`; the device keeps its old mode then.
    public func reopen(readOnly: Bool) throws(BlockError) {
        try file.reopen(readOnly: readOnly)
        medium.withLock { $0.readOnly = readOnly }
    }

    public func close() { file.close() }

    /// Checks the length: that of a device cannot change.
    ///
    /// - Throws: `noSpace` for a larger length, `unsupported` for a smaller one and for preallocation; `io`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        try checkPreallocation(preallocation)
        let size = try self.length()
        if length > size { throw cannotGrow() }
        if length < size {
            throw BlockError(.unsupported, "Cannot resize device files", path: file.path)
        }
    }

    /// Prepares the device for a new image of `size` bytes: zeroes at its start remove the signature of an
    /// old one.
    func prepare(size: Int, preallocation: Preallocation) throws(BlockError) {
        try checkPreallocation(preallocation)
        let length = try self.length()
        if size > length { throw cannotGrow() }
        let count = min(length, DriverRegistry.probeBytes)
        if count > 0 { try file.write(zeroes.bytes(0..<count), at: 0) }
    }

    private func checkPreallocation(_ mode: Preallocation) throws(BlockError) {
        guard mode == .off else {
            throw BlockError(
                .unsupported, "Unsupported preallocation mode '\(mode.rawValue)'", path: file.path)
        }
    }

    private func cannotGrow() -> BlockError {
        BlockError(.noSpace, "Cannot grow device files", path: file.path)
    }

    // MARK: Zeroes and discards

    /// - Throws: `io`, `noSpace`; `unsupported` with ``ZeroFlags/noFallback``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let end = try file.checkRange(offset, count)
        let whole = wholeSectors(offset..<end)
        if try zeroInPlace(whole, flags) {
            try writeOut(offset..<whole.lowerBound)
            return try writeOut(whole.upperBound..<end)
        }
        guard !flags.contains(.noFallback) else {
            throw .system(.notSupported, path: file.path, offset: offset)
        }
        try writeOut(offset..<end)
    }

    /// - Throws: `io`; `noSpace` for an offset that overflows.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        let end = try file.checkRange(offset, count)
        let whole = wholeSectors(offset..<end)
        guard !whole.isEmpty, file.options.discardUnmaps, file.kind == .blockDevice else { return }
        let code = Errno(
            rawValue: platter_device_discard(file.descriptor, UInt64(whole.lowerBound), UInt64(whole.count)))
        if code.rawValue == 0 || code.meansUnsupported || code == .invalidArgument { return }
        throw .system(code, path: file.path, offset: offset)
    }

    /// Zeroes the range by the device or the kernel. `false` when neither can.
    private func zeroInPlace(_ range: Range<Int>, _ flags: ZeroFlags) throws(BlockError) -> Bool {
        guard file.kind == .blockDevice, !range.isEmpty else { return false }
        let call = flags.contains(.mayUnmap) ? platter_punch_hole : platter_zero_range
        if try step(range, call(file.descriptor, Int64(range.lowerBound), Int64(range.count))) { return true }
        if flags.contains(.noFallback) || lacksFastZeroes.load(ordering: .relaxed) { return false }
        let zeroed = try step(
            range, platter_device_zero(file.descriptor, UInt64(range.lowerBound), UInt64(range.count)))
        if !zeroed { lacksFastZeroes.store(true, ordering: .relaxed) }
        return zeroed
    }

    private func step(_ range: Range<Int>, _ code: Int32) throws(BlockError) -> Bool {
        let code = Errno(rawValue: code)
        if code.rawValue == 0 { return true }
        if code.meansUnsupported || code == .invalidArgument { return false }
        throw .system(code, path: file.path, offset: range.lowerBound)
    }

    private func writeOut(_ range: Range<Int>) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(zeroes.count, range.upperBound - offset)
            try file.write(zeroes.bytes(0..<count), at: offset)
            offset += count
        }
    }

    /// The whole sectors inside `range`.
    private func wholeSectors(_ range: Range<Int>) -> Range<Int> {
        let unit = max(512, Int(platter_device_sector_size(file.descriptor)))
        let lower = range.lowerBound.roundedUp(to: unit) ?? Int.max
        let upper = range.upperBound.roundedDown(to: unit)
        return lower < upper ? lower..<upper : lower..<lower
    }
}
