import BlockCore
import BlockTestSupport
import Foundation
import Testing

@testable import BlockProtocols

/// A loop device over a file; `nil` where this machine has none to give.
final class LoopDevice {
    let path: String

    init?(over file: String) {
        guard let made = try? Self.losetup(["--find", "--show", file]), made.hasPrefix("/dev/loop") else {
            return nil
        }
        path = made
    }

    deinit { _ = try? Self.losetup(["-d", path]) }

    static let isThere: Bool = {
        let file = "/tmp/platter-loop-\(UUID().uuidString)"
        _ = FileManager.default.createFile(atPath: file, contents: Data(count: 4096))
        defer { try? FileManager.default.removeItem(atPath: file) }
        return LoopDevice(over: file) != nil
    }()

    private static func losetup(_ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/sbin/losetup")
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try ProcessGate.start(process)
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// With a real block device, where there is one.
@Suite(.enabled(if: LoopDevice.isThere), .serialized) struct BlockDeviceTests {
    let scratch: Scratch
    let device: LoopDevice
    let sizeBytes = 1 << 20

    init() throws {
        scratch = try Scratch()
        let path = try scratch.file("disk", [UInt8](repeating: 1, count: sizeBytes))
        device = try #require(LoopDevice(over: path))
    }

    private func open(_ settings: OpenSettings = writing(), _ name: String? = nil) throws
        -> any ProtocolDriver
    {
        var none = OptionTree()
        let registry = DriverRegistry(formats: [], protocols: StandardProtocols.all)
        let (entry, path) = try registry.resolve(name ?? device.path)
        return try entry.open(path, &none, settings)
    }

    @Test func aPlainPathOfADeviceIsOpenedAsOne() throws {
        for name in [device.path, "host_device:\(device.path)", "file:\(device.path)"] {
            let driver = try open(OpenSettings(), name)
            #expect(driver is HostDeviceDriver)
            #expect(type(of: driver).name == "host_device")
            #expect(try driver.length() == sizeBytes)
            #expect(driver.zeroInitialised == false)
            #expect(driver.identity?.hasPrefix("device:") == true)
            #expect(try driver.extent(at: 5, limit: 7) == Extent(.data(hostOffset: 5), length: 7))
            driver.close()
        }
    }

    @Test(arguments: [CacheMode.writeback, .none]) func randomRequestsAgreeWithAByteArray(cache: CacheMode)
        throws
    {
        var random = SeededRandom(seed: 21)
        var model = [UInt8](repeating: 1, count: sizeBytes)
        let driver = try open(writing(cache))
        for _ in 0..<100 {
            let offset = random.number(in: 0..<sizeBytes - 20000)
            let count = random.number(in: 1..<20000)
            if random.number(in: 0..<2) == 0 {
                let bytes = random.bytes(count)
                try driver.put(bytes, at: offset)
                model.replaceSubrange(offset..<offset + count, with: bytes)
            } else {
                try driver.writeZeroes(
                    at: offset, count: count, flags: random.number(in: 0..<2) == 0 ? .mayUnmap : [])
                model.replaceSubrange(offset..<offset + count, with: repeatElement(0, count: count))
            }
            let place = random.number(in: 0..<sizeBytes - 9000)
            #expect(try driver.bytes(at: place, 9000) == Array(model[place..<place + 9000]))
        }
        try driver.flush()
        #expect(try driver.bytes(at: 0, sizeBytes) == model)
        driver.close()
    }

    @Test func theSizeStaysAndItsEndIsTheEnd() throws {
        let driver = try open()
        try driver.truncate(to: sizeBytes, preallocation: .off)
        let grow = failure { try driver.truncate(to: sizeBytes + 1, preallocation: .off) }
        #expect(grow?.message == "Cannot grow device files")
        #expect(grow?.kind == .noSpace)
        let shrink = failure { try driver.truncate(to: 512, preallocation: .off) }
        #expect(shrink?.message == "Cannot resize device files")
        #expect(shrink?.kind == .unsupported)
        #expect(failure { try driver.truncate(to: sizeBytes, preallocation: .full) }?.kind == .unsupported)
        #expect(failure { try driver.put([1, 2], at: sizeBytes) }?.kind == .noSpace)
        #expect(try driver.bytes(at: sizeBytes - 1, 3) == [1, 0, 0])
        #expect(try driver.length() == sizeBytes)
        driver.close()
    }

    @Test func discardedSpaceIsGivenBack() throws {
        let driver = try open()
        try driver.discard(at: 0, count: sizeBytes)
        try driver.discard(at: 3, count: 100)
        driver.close()
        let file = try FileDriver(opening: scratch.path("disk"), settings: OpenSettings(forceShare: true))
        #expect(file.allocatedSize() == 0)
    }

    @Test func creatingChecksTheSizeAndWipesTheStart() throws {
        try FileDriver.create(device.path, fileOptions(["size": "512k"]))
        let driver = try open(OpenSettings())
        #expect(try driver.bytes(at: 0, 2049) == [UInt8](repeating: 0, count: 2048) + [1])
        driver.close()
        let error = failure { try FileDriver.create(device.path, fileOptions(["size": "2M"])) }
        #expect(error?.message == "Cannot grow device files")
        #expect(FileManager.default.fileExists(atPath: device.path))
    }

    @Test func aDeviceInUseIsRefused() throws {
        let writer = try open()
        #expect(failure { _ = try open(OpenSettings()) }?.message == "Failed to get shared \"write\" lock")
        #expect(failure { try FileDriver.create(device.path, fileOptions([:])) }?.kind == .busy)
        try writer.reopen(readOnly: true)
        try open(OpenSettings()).close()
        writer.close()
    }
}

/// What can be told without a block device.
@Suite struct DeviceRuleTests {
    @Test func charactersDevicesHaveNoLength() throws {
        var none = OptionTree()
        let driver = try FileDriver.entry.open("/dev/null", &none, writing())
        #expect(driver is HostDeviceDriver)
        #expect(try driver.length() == 0)
        #expect(try driver.bytes(at: 7, 2) == [0, 0])
        #expect(
            failure { try FileDriver.create("/dev/null", fileOptions(["size": "1M"])) }?.message
                == "Cannot grow device files")
    }

    @Test func fullDevicesAreReportedWithPathAndOffset() throws {
        var none = OptionTree()
        let driver = try FileDriver.entry.open("/dev/full", &none, writing())
        let error = failure { try driver.put([1], at: 42) }
        #expect(error?.kind == .noSpace)
        #expect(error?.message == "No space left on device")
        #expect(error?.path == "/dev/full")
        #expect(error?.offset == 42)
    }

    @Test func regularFilesAreNoDevices() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", [1, 2])
        var none = OptionTree()
        let error = failure {
            _ = try HostDeviceDriver.entry.open("host_device:\(path)", &none, OpenSettings())
        }
        #expect(
            error?.message
                == "'host_device' driver requires '\(path)' to be either a character or block device")
        let creating = failure {
            try HostDeviceDriver.entry.create?(path, CreateOptions(HostDeviceDriver.createOptions))
        }
        #expect(creating?.kind == .invalidArgument)
        #expect(try scratch.contents("a") == [1, 2])
    }

    /// Over a regular file the device's ways of zeroing are missing, so zeroes are written.
    @Test func zeroesAreWrittenWhereTheDeviceCannot() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", [UInt8](repeating: 1, count: 8192))
        let driver = HostDeviceDriver(try HostFile.open(path, FileOpenOptions(writing())))
        try driver.writeZeroes(at: 100, count: 5000, flags: .mayUnmap)
        #expect(
            failure { try driver.writeZeroes(at: 0, count: 512, flags: .noFallback) }?.kind == .unsupported)
        try driver.discard(at: 6000, count: 1000)
        #expect(try driver.length() == 8192)
        driver.close()
        let expected = (0..<8192).map { (100..<5100).contains($0) ? UInt8(0) : 1 }
        #expect(try scratch.contents("a") == expected)
    }
}
