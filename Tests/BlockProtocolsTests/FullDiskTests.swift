import BlockCore
import Foundation
import Synchronization
import Testing

@testable import BlockProtocols

/// A file system of 1 MiB in memory, which is soon full. Needs root to mount it.
@Suite(.enabled(if: geteuid() == 0), .serialized) final class FullDiskTests {
    let folder: String

    init() throws {
        folder = "/tmp/platter-full-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try #require(mount("tmpfs", folder, "tmpfs", 0, "size=1m") == 0)
    }

    deinit {
        umount2(folder, 2)
        rmdir(folder)
    }

    @Test func aFailedReservationIsGivenBack() throws {
        let path = "\(folder)/a"
        try FileDriver.create(path, fileOptions(["size": "3"]))
        let driver = try FileDriver(opening: path, settings: writing())
        for mode in [Preallocation.falloc, .full] {
            let error = failure { try driver.truncate(to: 8 << 20, preallocation: mode) }
            let prefix =
                mode == .full ? "Could not write zeros for preallocation" : "Could not preallocate new data"
            #expect(error?.kind == .noSpace)
            #expect(error?.errno == 28)
            #expect(error?.path == path)
            #expect(error?.message == "\(prefix): No space left on device")
            #expect(try driver.length() == 3)
            #expect(driver.file.knownLength.load(ordering: .relaxed) == 3)
            #expect(try #require(driver.allocatedSize()) <= 4096)
        }
        let failed = failure {
            try FileDriver.create("\(folder)/b", fileOptions(["size": "8M", "preallocation": "full"]))
        }
        #expect(failed?.kind == .noSpace)
        #expect(!FileManager.default.fileExists(atPath: "\(folder)/b"))
    }

    @Test func aWriteThatDoesNotFitNamesPathAndOffset() throws {
        let path = "\(folder)/a"
        try FileDriver.create(path, fileOptions(["size": "8M"]))
        let driver = try FileDriver(opening: path, settings: writing())
        let error = failure { try driver.put([UInt8](repeating: 1, count: 4 << 20), at: 12288) }
        #expect(error?.kind == .noSpace)
        #expect(error?.message == "No space left on device")
        #expect(error?.path == path)
        #expect(error?.offset == 12288)
        // Giving space back makes room again.
        try driver.discard(at: 0, count: 8 << 20)
        try driver.put([1, 2, 3], at: 0)
        #expect(try driver.bytes(at: 0, 4) == [1, 2, 3, 0])
    }

    /// This file system punches holes, but has no zeroing in place.
    @Test func zeroesKeepTheirSpaceWithoutZeroingInPlace() throws {
        let path = "\(folder)/a"
        try FileDriver.create(path, fileOptions([:]))
        let driver = try FileDriver(opening: path, settings: writing())
        try driver.put([UInt8](repeating: 1, count: 65536), at: 0)
        try driver.writeZeroes(at: 4096, count: 8192, flags: [.noFallback])
        #expect(try driver.bytes(at: 0, 65536).filter { $0 == 0 }.count == 8192)
        #expect(driver.allocatedSize() == 65536)
        try driver.writeZeroes(at: 4096, count: 8192, flags: [.mayUnmap, .noFallback])
        #expect(driver.allocatedSize() == 65536 - 8192)
    }

    /// The system tells of writes that it lost only once.
    @Test(.enabled(if: LoopDevice.isThere)) func aFailedFlushStaysFailed() throws {
        let backing = "\(folder)/disk"
        try FileDriver.create(backing, fileOptions(["size": "8M"]))
        let device = try #require(LoopDevice(over: backing))
        var none = OptionTree()
        let driver = try FileDriver.entry.open(device.path, &none, writing())
        try driver.flush()
        try driver.put([UInt8](repeating: 1, count: 4 << 20), at: 0)
        for _ in 0..<3 {
            let error = failure { try driver.flush() }
            #expect(error?.kind == .io || error?.kind == .noSpace)
            #expect(error?.path == device.path)
        }
        driver.close()
    }
}
