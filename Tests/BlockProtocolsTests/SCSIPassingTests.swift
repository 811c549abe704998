import BlockCore
import BlockFormats
import BlockTestSupport
import CHost
import Synchronization
import SystemPackage
import Testing

@testable import BlockProtocols

@Suite struct SCSIPassingTests {
    private let scratch: Scratch
    private let path: String

    init() throws {
        scratch = try Scratch()
        path = try scratch.file("disk", [UInt8](repeating: 7, count: 8192))
    }

    private func driver(_ calls: FakeDevice, _ settings: OpenSettings = OpenSettings()) throws
        -> HostDeviceDriver
    {
        HostDeviceDriver(try HostFile.open(path, FileOpenOptions(settings)), calls)
    }

    private func send(
        _ node: BlockNode, _ command: SCSICommand, _ bytes: [UInt8]
    ) throws(BlockError) -> (result: SCSIResult, data: [UInt8]) {
        var result = SCSIResult()
        let data = try [UInt8](zeroed: bytes.count) { (span) throws(BlockError) in
            span.withUnsafeMutableBytes { $0.copyBytes(from: bytes) }
            result = try node.send(command, data: &span)
        }
        return (result, data)
    }

    private let inquiry = [0x12, 0, 0, 0, 4, 0] as [UInt8]
    private let write10 = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0] as [UInt8]

    @Test func aCommandAndItsAnswerArePassed() throws {
        let calls = FakeDevice()
        let failed = SCSIResult(
            status: 2, hostStatus: 3, driverStatus: 8, residualBytes: 2, sense: [0x70, 1])
        calls.answer(commands: .success(failed), [1, 2, 3, 4])
        let node = BlockNode(.storage(try driver(calls)), filename: path)
        let command = try SCSICommand(inquiry, .fromDevice, timeoutMilliseconds: 99)
        let answer = try send(node, command, [0, 0, 0, 0])
        #expect(answer.result == failed)
        #expect(answer.data == [1, 2, 3, 4])
        #expect(calls.commands.last == command)
        try node.close()
    }

    @Test(arguments: [
        (Errno.inappropriateIOCTLForDevice, BlockError.Kind.unsupported), (.resourceBusy, .busy),
        (.noMedium, .notFound), (.ioError, .io),
    ])
    func failuresKeepTheirReason(code: Errno, kind: BlockError.Kind) throws {
        let calls = FakeDevice()
        calls.answer(commands: .failure(code))
        calls.answer(bytes: DeviceRequest.version.number, .failure(code))
        let node = BlockNode(.storage(try driver(calls)), filename: path)
        let error = blockError { () throws(BlockError) in
            try send(node, SCSICommand(inquiry, .fromDevice), [0])
        }
        #expect(error?.kind == kind && error?.errno == code.rawValue && error?.path == path)
        let control = blockError { () throws(BlockError) in
            try [UInt8](zeroed: 4) { (span) throws(BlockError) in _ = try node.control(.version, &span) }
        }
        #expect(control?.kind == kind && control?.errno == code.rawValue)
        try node.close()
    }

    @Test func commandBlocksHaveALength() throws {
        for count in [0, 5, 33] {
            let error = blockError { () throws(BlockError) in
                try SCSICommand([UInt8](repeating: 0, count: count))
            }
            #expect(error?.kind == .invalidArgument)
        }
        #expect(try SCSICommand([UInt8](repeating: 0, count: 32)).onlyReads)
        #expect(try !SCSICommand(write10, .toDevice).onlyReads)
        // Formatting moves no data.
        #expect(try !SCSICommand([0x04, 0, 0, 0, 0, 0]).onlyReads)
        #expect(try !SCSICommand(inquiry, .toDevice).onlyReads)
    }

    /// A read-only node passes only what reads; nothing else reaches the device.
    @Test func readOnlyNodesPassNoWrites() throws {
        let calls = FakeDevice()
        calls.answer(commands: .success(SCSIResult()))
        let (raw, _) = try rawNode(try driver(calls))
        let storage = try #require(raw.file)
        let before = calls.commands.count
        for node in [raw, storage] {
            let error = blockError { () throws(BlockError) in
                try send(node, SCSICommand(write10, .toDevice), [1])
            }
            #expect(error?.kind == .readOnly)
        }
        #expect(calls.commands.count == before)
        #expect(try send(raw, SCSICommand(inquiry, .fromDevice), [0]).result.status == 0)
        #expect(calls.commands.count == before + 1)
        try raw.close()
    }

    private final class Observer: ChangeObserver {
        let ranges = Mutex<[String]>([])
        func willChange(_ range: Range<Int>) throws(BlockError) {
            ranges.withLock { $0.append("will \(range)") }
        }
        func didChange(_ range: Range<Int>) { ranges.withLock { $0.append("did \(range)") } }
    }

    /// What such a command changes is not known: the whole disk.
    @Test func aWritingCommandChangesTheWholeDisk() throws {
        let calls = FakeDevice()
        calls.answer(commands: .success(SCSIResult()))
        let (node, _) = try rawNode(try driver(calls, writing()), writing())
        let observer = Observer()
        try node.addObserver(observer)
        _ = try send(node, SCSICommand(inquiry, .fromDevice), [0])
        #expect(observer.ranges.withLock { $0 } == [])
        _ = try send(node, SCSICommand(write10, .toDevice), [5, 6])
        #expect(observer.ranges.withLock { $0 } == ["will 0..<8192", "did 0..<8192"])
        #expect(calls.received == [5, 6])
        calls.answer(commands: .failure(.ioError))
        let device = BlockDevice(name: "sd0", root: node)
        device.policy = .init(read: .ignore, write: .ignore)
        let error = blockError { () throws(BlockError) in
            try [UInt8](zeroed: 1) { (span) throws(BlockError) in
                _ = try device.send(SCSICommand(write10, .toDevice), data: &span)
            }
        }
        // The policy is for the guest's own requests.
        #expect(error?.kind == .io && device.ioStatus == .ok)
        #expect(observer.ranges.withLock { $0 }.suffix(2) == ["will 0..<8192", "did 0..<8192"])
        try device.close()
    }

    /// Commands address the device, so an image that shows a part of it passes none.
    @Test func partsOfADevicePassNothing() throws {
        let calls = FakeDevice()
        calls.answer(commands: .success(SCSIResult()))
        for options in [["offset": "512"], ["size": "4096"]] {
            let (node, _) = try rawNode(try driver(calls), options: options)
            let before = calls.commands.count
            let error = blockError { () throws(BlockError) in
                try send(node, SCSICommand(inquiry, .fromDevice), [0])
            }
            #expect(error?.kind == .unsupported)
            #expect(error?.message.contains("Driver 'raw'") == true)
            #expect(calls.commands.count == before)
            try node.close()
        }
    }

    @Test func controlRequestsAreThoseOfTheList() throws {
        let calls = FakeDevice()
        calls.answer(bytes: DeviceRequest.version.number, .success([1, 2, 3, 4]))
        let (node, _) = try rawNode(try driver(calls))
        let device = BlockDevice(name: "sg0", root: node)
        let bytes = try [UInt8](zeroed: 4) { (span) throws(BlockError) in
            #expect(try device.control(.version, &span) == 0)
        }
        #expect(bytes == [1, 2, 3, 4])
        calls.forget()
        let short = blockError { () throws(BlockError) in
            try [UInt8](zeroed: 3) { (span) throws(BlockError) in _ = try node.control(.version, &span) }
        }
        #expect(short?.kind == .invalidArgument)
        #expect(calls.calls.isEmpty)
        // SG_IO and BLKDISCARD: their arguments are addresses, or have no stated size.
        #expect(DeviceRequest(number: 0x2285) == nil && DeviceRequest(number: 0x1277) == nil)
        #expect(DeviceRequest.all.allSatisfy { DeviceRequest(number: $0.number) == $0 })
        try device.close()
    }

    /// Real files and devices that take no commands.
    @Test func otherFilesTakeNoCommands() throws {
        var none = OptionTree()
        let null = try FileDriver.entry.open("/dev/null", &none, OpenSettings())
        let nodes = [
            (BlockNode(.storage(null), filename: "/dev/null"), "host_device"),
            (BlockNode(.storage(try FileDriver(opening: path)), filename: path), "file"),
        ]
        for (node, name) in nodes {
            let error = blockError { () throws(BlockError) in
                try send(node, SCSICommand(inquiry, .fromDevice), [0])
            }
            #expect(error?.kind == .unsupported)
            #expect(error?.message.contains("'\(name)'") == true)
            #expect(!node.isSCSIGeneric && !node.isRemovable)
            try node.close()
        }
    }
}

/// Which driver a path gets.
@Suite struct DeviceKindTests {
    @Test func kindsAndScores() throws {
        let generic = FakeDevice()
        generic.answer(number: UInt64(PLATTER_SG_VERSION), 30_536)
        let old = FakeDevice()
        old.answer(number: UInt64(PLATTER_SG_VERSION), 29_999)
        let drive = FakeDevice.cdrom()
        let cases: [(FileStatus.Kind, FakeDevice, DeviceKind, cdrom: Int, device: Int)] = [
            (.regular, drive, .none, 0, 0), (.directory, drive, .none, 0, 0),
            (.blockDevice, drive, .cdrom, 100, 50), (.blockDevice, FakeDevice(), .block, 0, 50),
            (.characterDevice, generic, .scsiGeneric, 0, 50), (.characterDevice, old, .character, 0, 50),
            (.characterDevice, drive, .character, 0, 50),
        ]
        for (file, calls, kind, cdrom, device) in cases {
            #expect(DeviceKind(file, 0, calls) == kind)
            #expect(HostCdromName.score(kind) == cdrom)
            #expect(HostDeviceName.score(kind) == device)
        }
    }

    @Test func otherFilesAreNoDrives() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", [1])
        var none = OptionTree()
        let file = failure { _ = try HostCdromDriver.entry.open("host_cdrom:\(path)", &none, OpenSettings()) }
        #expect(file?.kind == .invalidArgument)
        #expect(
            file?.message
                == "'host_cdrom' driver requires '\(path)' to be either a character or block device")
        let null = failure { _ = try HostCdromDriver.entry.open("/dev/null", &none, OpenSettings()) }
        #expect(null?.kind == .unsupported)
        #expect(null?.message == "'host_cdrom' driver requires '/dev/null' to be a CD-ROM drive")
    }

    @Test(.enabled(if: LoopDevice.isThere, "no loop device on this machine"))
    func aLoopDeviceIsABlockDevice() throws {
        let scratch = try Scratch()
        let loop = try #require(
            LoopDevice(over: try scratch.file("disk", [UInt8](repeating: 1, count: 1 << 20))))
        var none = OptionTree()
        let driver = try #require(
            try FileDriver.entry.open(loop.path, &none, OpenSettings()) as? HostDeviceDriver)
        #expect(!driver.isRemovable && !driver.isSCSIGeneric)
        #expect(failure { try driver.eject(force: true) }?.kind == .unsupported)
        driver.close()
        let refused = failure { _ = try HostCdromDriver.entry.open(loop.path, &none, OpenSettings()) }
        #expect(refused?.kind == .unsupported)
    }
}
