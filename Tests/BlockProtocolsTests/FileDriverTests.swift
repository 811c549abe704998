import BlockCore
import BlockProtocols
import Foundation
import Testing

@Suite struct FileDriverTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    @Test func readsWhatItWroteAndZeroesPastTheEnd() throws {
        let path = try scratch.file("a", [1, 2, 3])
        let driver = try FileDriver(opening: path, settings: writing())
        #expect(try driver.bytes(at: 1, 5) == [2, 3, 0, 0, 0])
        #expect(try driver.bytes(at: 100, 2) == [0, 0])
        try driver.put([9, 8], at: 5)
        try driver.flush()
        #expect(try driver.length() == 7)
        driver.close()
        #expect(try scratch.contents("a") == [1, 2, 3, 0, 0, 9, 8])
    }

    @Test func createsOfTheSizeAskedForAndEmptiesWhatIsThere() throws {
        let path = try scratch.file("a", [1, 2, 3])
        try FileDriver.create(path, fileOptions(["size": "1M"]))
        #expect(try scratch.contents("a") == [UInt8](repeating: 0, count: 1 << 20))
        let driver = try FileDriver(opening: path)
        #expect(try #require(driver.allocatedSize()) < 65536)
    }

    @Test(arguments: ["falloc", "full"]) func preallocationReservesSpace(mode: String) throws {
        let path = scratch.path("a")
        try FileDriver.create(path, fileOptions(["size": "1M", "preallocation": mode]))
        let driver = try FileDriver(opening: path, settings: writing())
        #expect(try driver.length() == 1 << 20)
        #expect(try #require(driver.allocatedSize()) >= 1 << 20)
        try driver.truncate(to: 3 << 20, preallocation: mode == "full" ? .full : .falloc)
        #expect(try #require(driver.allocatedSize()) >= 3 << 20)
        #expect(try driver.length() == 3 << 20)
        let error = failure { try driver.truncate(to: 0, preallocation: .falloc) }
        #expect(error?.message == "Preallocation can't be used for shrinking files")
        #expect(try driver.length() == 3 << 20)
    }

    @Test func metadataPreallocationIsRefusedAndLeavesNoFile() throws {
        let path = scratch.path("a")
        let error = failure {
            try FileDriver.create(path, fileOptions(["size": "1M", "preallocation": "metadata"]))
        }
        #expect(error?.kind == .unsupported)
        #expect(error?.message == "Unsupported preallocation mode: metadata")
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test func truncateShrinksAndGrowsWithZeroes() throws {
        let path = try scratch.file("a", [UInt8](repeating: 7, count: 10000))
        let driver = try FileDriver(opening: path, settings: writing())
        try driver.truncate(to: 10, preallocation: .off)
        try driver.truncate(to: 20, preallocation: .off)
        driver.close()
        #expect(
            try scratch.contents("a") == [UInt8](repeating: 7, count: 10) + [UInt8](repeating: 0, count: 10))
    }

    @Test func mapsDataAndHoles() throws {
        let path = scratch.path("a")
        try FileDriver.create(path, fileOptions(["size": "4M"]))
        let driver = try FileDriver(opening: path, settings: writing())
        try driver.put([UInt8](repeating: 1, count: 65536), at: 1 << 20)
        let end = 4 << 20
        #expect(try driver.extent(at: 0, limit: end) == Extent(.zero(hostOffset: 0), length: 1 << 20))
        let data = Extent(.data(hostOffset: 1 << 20), length: 65536)
        #expect(try driver.extent(at: 1 << 20, limit: end - (1 << 20)) == data)
        #expect(try driver.extent(at: 1 << 20, limit: 512).length == 512)
        let tail = (1 << 20) + 65536
        #expect(
            try driver.extent(at: tail, limit: end - tail)
                == Extent(.zero(hostOffset: tail), length: end - tail))
        try driver.put([2], at: 2 << 20)
        #expect(try driver.extent(at: 2 << 20, limit: 4096).status == .data(hostOffset: 2 << 20))
    }

    @Test func theKnownRunOfDataIsForgottenWhenItIsPunched() throws {
        let path = try scratch.file("a", [UInt8](repeating: 1, count: 1 << 20))
        let driver = try FileDriver(opening: path, settings: writing())
        #expect(try driver.extent(at: 0, limit: 1 << 20).status == .data(hostOffset: 0))
        try driver.writeZeroes(at: 0, count: 65536, flags: .mayUnmap)
        #expect(try driver.extent(at: 0, limit: 1 << 20) == Extent(.zero(hostOffset: 0), length: 65536))
        try driver.discard(at: 65536, count: 65536)
        #expect(try driver.extent(at: 0, limit: 1 << 20) == Extent(.zero(hostOffset: 0), length: 131072))
    }
}
