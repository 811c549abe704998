import BlockCore
import BlockFormats
import BlockTestSupport
import CHost
import Synchronization
import SystemPackage
import Testing

@testable import BlockProtocols

/// Drives behind the seam of control calls: every request, and every way in which it fails.
@Suite struct RemovableMediumTests {
    private let scratch: Scratch
    private let path: String

    init() throws {
        scratch = try Scratch()
        path = try scratch.file("disc", [UInt8](repeating: 7, count: 8192))
    }

    private func cdrom(_ calls: FakeDevice, _ settings: OpenSettings = OpenSettings()) throws
        -> HostCdromDriver
    {
        HostCdromDriver(try HostFile.open(path, FileOpenOptions(settings)), calls)
    }

    private func disk(_ calls: FakeDevice) throws -> HostDeviceDriver {
        HostDeviceDriver(try HostFile.open(path, FileOpenOptions(OpenSettings())), calls)
    }

    private func call(_ request: Int, _ value: Int = 0) -> FakeDevice.Call {
        FakeDevice.Call(request: UInt(request), value: value)
    }

    @Test(arguments: [
        (PLATTER_CDROM_DISC_OK, MediumState.inserted), (PLATTER_CDROM_NO_DISC, .empty),
        (PLATTER_CDROM_TRAY_OPEN, .open), (PLATTER_CDROM_NOT_READY, .notReady),
    ])
    func theStateIsTheDrivesOwn(status: Int, expected: MediumState) throws {
        let calls = FakeDevice.cdrom()
        calls.answer(PLATTER_CDROM_DRIVE_STATUS, .success(status))
        let driver = try cdrom(calls)
        #expect(try driver.mediumState() == expected)
        let node = BlockNode(.storage(driver), filename: path)
        #expect(try node.isInserted() == (expected == .inserted))
        try node.close()
        #expect(try !node.isInserted())
    }

    /// A drive that cannot tell has a medium when it has a length.
    @Test(arguments: [0, 2048]) func theLengthStandsForTheState(bytes: UInt64) throws {
        let calls = FakeDevice.cdrom()
        calls.answer(PLATTER_CDROM_DRIVE_STATUS, .success(PLATTER_CDROM_NO_INFO))
        calls.answer(number: platter_request_size(), bytes)
        #expect(try cdrom(calls).mediumState() == (bytes > 0 ? .inserted : .empty))
        calls.answer(bytes: UInt(platter_request_size()), .failure(.noMedium))
        #expect(try cdrom(calls).mediumState() == .empty)
    }

    @Test func ejectingLoadingAndLocking() throws {
        let calls = FakeDevice.cdrom()
        let driver = try cdrom(calls)
        try driver.lock(true)
        try driver.eject(force: false)
        try driver.load()
        try driver.eject(force: true)
        #expect(
            calls.calls == [
                call(PLATTER_CDROM_LOCK_DOOR, 1), call(PLATTER_CDROM_EJECT), call(PLATTER_CDROM_CLOSE_TRAY),
                call(PLATTER_CDROM_LOCK_DOOR, 0), call(PLATTER_CDROM_EJECT),
            ])
    }

    @Test(arguments: [
        (Errno.resourceBusy, BlockError.Kind.busy), (.noMedium, .notFound), (.ioError, .io),
        (.inappropriateIOCTLForDevice, .unsupported), (.noFunction, .unsupported),
    ])
    func failuresKeepTheirReason(code: Errno, kind: BlockError.Kind) throws {
        let calls = FakeDevice()
        for request in [
            PLATTER_CDROM_EJECT, PLATTER_CDROM_CLOSE_TRAY, PLATTER_CDROM_LOCK_DOOR,
            PLATTER_CDROM_DRIVE_STATUS, PLATTER_CDROM_MEDIA_CHANGED,
        ] {
            calls.answer(request, .failure(code))
        }
        let driver = try cdrom(calls)
        let failures = [
            failure { try driver.eject(force: false) }, failure { try driver.eject(force: true) },
            failure { try driver.load() }, failure { try driver.lock(true) },
            failure { _ = try driver.mediumState() }, failure { _ = try driver.mediaChanged() },
        ]
        for error in failures {
            #expect(error?.kind == kind)
            #expect(error?.errno == code.rawValue)
            #expect(error?.path == path)
            if kind == .unsupported { #expect(error?.message.contains("'host_cdrom'") == true) }
        }
    }

    /// The kernel forgets the change when it is asked, and shows the new medium to those who open it.
    @Test func aChangeIsToldOnceAndTheNewMediumIsRead() throws {
        let calls = FakeDevice.cdrom()
        let driver = try cdrom(calls, writing())
        #expect(try !driver.mediaChanged())
        calls.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(1))
        #expect(try driver.mediaChanged())
        calls.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(0))
        #expect(try !driver.mediaChanged())
        // Reopened in its present mode.
        try driver.put([9], at: 0)
        try driver.reopen(readOnly: true)
        calls.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(1))
        #expect(try driver.mediaChanged())
        #expect(failure { try driver.put([8], at: 0) } != nil)
        #expect(try driver.bytes(at: 0, 2) == [9, 7])
    }

    // MARK: Disks

    @Test func aRemovableDiskHasTheRequestsOfDisks() throws {
        let calls = FakeDevice.disk(isRemovable: true)
        calls.answer(number: platter_request_size(), 512)
        calls.answer(number: platter_request_sequence(), 5)
        for request in [PLATTER_CDROM_EJECT, PLATTER_SCSI_LOCK_DOOR, PLATTER_SCSI_UNLOCK_DOOR] {
            calls.answer(request, .success(0))
        }
        let driver = try disk(calls)
        #expect(driver.isRemovable)
        #expect(calls.commands.map(\.bytes) == [[0x12, 0, 0, 0, 36, 0]])
        #expect(try driver.mediumState() == .inserted)
        #expect(try !driver.mediaChanged())
        calls.answer(number: platter_request_sequence(), 6)
        #expect(try driver.mediaChanged())
        #expect(try !driver.mediaChanged())
        calls.answer(number: platter_request_size(), 0)
        #expect(try driver.mediumState() == .empty)
        calls.forget()
        try driver.lock(true)
        try driver.eject(force: true)
        #expect(
            calls.calls == [
                call(PLATTER_SCSI_LOCK_DOOR), call(PLATTER_SCSI_UNLOCK_DOOR), call(PLATTER_CDROM_EJECT),
            ])
        #expect(calls.commands.count == 1)
    }

    @Test func aFixedDiskIsNotEjected() throws {
        for calls in [FakeDevice.disk(isRemovable: false), FakeDevice()] {
            calls.answer(PLATTER_CDROM_EJECT, .success(0))
            let driver = try disk(calls)
            let node = BlockNode(.storage(driver), filename: path)
            calls.forget()
            #expect(!driver.isRemovable && !node.isRemovable)
            for error in [
                failure { try driver.eject(force: true) }, failure { try driver.load() },
                failure { try driver.lock(true) }, failure { _ = try driver.mediumState() },
                failure { try node.eject() },
            ] {
                #expect(error?.kind == .unsupported)
                #expect(error?.message.contains("'host_device'") == true)
            }
            #expect(calls.calls.isEmpty)
            #expect(try node.isInserted())
            #expect(try !node.mediaChanged())
        }
    }

    // MARK: Nodes and devices

    @Test func aRawNodeMovesTheTrayAndAJobKeepsItClosed() throws {
        let calls = FakeDevice.cdrom()
        let (node, _) = try rawNode(try cdrom(calls))
        #expect(node.isRemovable)
        let use = NodeUse(by: "mirror")
        try use.begin(on: [node])
        calls.forget()
        #expect(failure { try node.eject(force: true) }?.kind == .busy)
        #expect(calls.calls.isEmpty)
        use.end(on: [node])
        try node.eject()
        try node.load()
        try node.lock(true)
        #expect(
            calls.calls == [
                call(PLATTER_CDROM_EJECT), call(PLATTER_CDROM_CLOSE_TRAY), call(PLATTER_CDROM_LOCK_DOOR, 1),
            ])
        try node.close()
    }

    @Test func aDeviceOverADriveKeepsItsNode() throws {
        let calls = FakeDevice.cdrom()
        let device = BlockDevice(name: "cd0", root: BlockNode(.storage(try cdrom(calls)), filename: path))
        try device.lock(true)
        #expect(failure { try device.eject() }?.kind == .busy)
        #expect(!calls.calls.contains(call(PLATTER_CDROM_EJECT)))
        #expect(try device.eject(force: true) == nil)
        #expect(calls.calls.last == call(PLATTER_CDROM_EJECT))
        #expect(device.root != nil && !device.isLocked)
        calls.answer(PLATTER_CDROM_DRIVE_STATUS, .success(PLATTER_CDROM_TRAY_OPEN))
        #expect(try device.isTrayOpen() && !device.isInserted())
        try device.load()
        #expect(calls.calls.last == call(PLATTER_CDROM_CLOSE_TRAY))
        calls.answer(PLATTER_CDROM_DRIVE_STATUS, .success(PLATTER_CDROM_DISC_OK))
        #expect(try !device.isTrayOpen() && device.isInserted())
        calls.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(1))
        #expect(try device.mediaChanged())
        calls.answer(PLATTER_CDROM_MEDIA_CHANGED, .success(0))
        #expect(try !device.mediaChanged())
        try device.close()
    }

    /// Of anything but a drive, the media stay.
    @Test func filesHaveNoTray() throws {
        let node = BlockNode(.storage(try FileDriver(opening: path)), filename: path)
        for error in [
            failure { try node.eject(force: true) }, failure { try node.load() },
            failure { try node.lock(true) },
            failure { _ = try node.mediumState() },
        ] {
            #expect(error?.kind == .unsupported)
            #expect(error?.message == "Driver 'file' has no removable medium: '\(path)'")
        }
        #expect(try node.isInserted())
        try node.close()
    }
}

/// A raw image over a driver, and the store of its name.
func rawNode(
    _ driver: any ProtocolDriver, _ settings: OpenSettings = OpenSettings(), options: [String: String] = [:]
) throws -> (node: BlockNode, opener: ImageOpener) {
    let entry = ProtocolEntry(name: "file", open: { (_, _, _) throws(BlockError) in driver })
    let opener = ImageOpener(
        registry: DriverRegistry(formats: [RawDriver.self], protocols: [entry]), policy: .anyFile)
    var tree = OptionTree()
    for (key, value) in options { tree[key] = value }
    return (try opener.open("disc", format: "raw", settings: settings, options: tree), opener)
}
