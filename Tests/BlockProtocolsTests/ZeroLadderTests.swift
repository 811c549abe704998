import BlockCore
import Foundation
import Synchronization
import Testing

@testable import BlockProtocols

/// Each step of the zeroing ladder, reached by saying that those above it are missing.
@Suite struct ZeroLadderTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func driver(_ missing: FileDriver.Missing) throws -> FileDriver {
        let path = try scratch.file("a", [UInt8](repeating: 1, count: 65536))
        let driver = try FileDriver(opening: path, settings: writing())
        driver.note(missing: missing)
        return driver
    }

    @Test func unmappingGivesSpaceBack() throws {
        let driver = try driver([])
        try driver.writeZeroes(at: 4096, count: 16384, flags: [.mayUnmap, .noFallback])
        #expect(driver.allocatedSize() == 65536 - 16384)
        try expectZeroes(driver, 4096..<20480)
    }

    @Test(arguments: [FileDriver.Missing.punchHole, .zeroRange, [.punchHole, .zeroRange, .allocate]])
    func spaceIsKeptOtherwise(missing: FileDriver.Missing) throws {
        let driver = try driver(missing)
        try driver.writeZeroes(at: 4096, count: 16384, flags: [])
        #expect(driver.allocatedSize() == 65536)
        try expectZeroes(driver, 4096..<20480)
    }

    @Test func zeroingInPlaceReplacesAMissingPunch() throws {
        let driver = try driver(.punchHole)
        try driver.writeZeroes(at: 100, count: 10000, flags: [.mayUnmap, .noFallback])
        #expect(driver.allocatedSize() == 65536)
        try expectZeroes(driver, 100..<10100)
    }

    @Test(arguments: [ZeroFlags.mayUnmap, []]) func withoutFallbackNothingIsWritten(flags: ZeroFlags) throws {
        let driver = try driver([.punchHole, .zeroRange, .allocate])
        let error = failure { try driver.writeZeroes(at: 0, count: 4096, flags: flags.union(.noFallback)) }
        #expect(error?.kind == .unsupported)
        #expect(try driver.bytes(at: 0, 4096) == [UInt8](repeating: 1, count: 4096))
    }

    @Test(
        arguments: [FileDriver.Missing([]), [.punchHole, .zeroRange, .allocate]], [ZeroFlags.mayUnmap, []])
    func zeroesPastTheEndMakeTheFileLonger(missing: FileDriver.Missing, flags: ZeroFlags) throws {
        let driver = try driver(missing)
        try driver.writeZeroes(at: 65536 - 100, count: 10000, flags: flags)
        #expect(try driver.length() == 65536 + 9900)
        try expectZeroes(driver, 65436..<75436)
        try driver.writeZeroes(at: 1 << 20, count: 1 << 20, flags: flags.union(.noFallback))
        #expect(try driver.length() == 2 << 20)
        try expectZeroes(driver, 65436..<2 << 20)
        let reserved = missing.isEmpty && flags.isEmpty
        #expect(try #require(driver.allocatedSize()) >= (reserved ? 1 << 20 : 0))
        if !reserved { #expect(try #require(driver.allocatedSize()) < 1 << 20) }
    }

    @Test func discardIgnoresThatItCannot() throws {
        let driver = try driver(.punchHole)
        try driver.discard(at: 0, count: 65536)
        #expect(driver.allocatedSize() == 65536)
        let path = scratch.path("a")
        driver.close()
        var settings = writing()
        settings.discardUnmaps = false
        let keeping = try FileDriver(opening: path, settings: settings)
        try keeping.discard(at: 0, count: 65536)
        #expect(keeping.allocatedSize() == 65536)
        keeping.close()
        let giving = try FileDriver(opening: path, settings: writing())
        try giving.discard(at: 0, count: 65536)
        #expect(giving.allocatedSize() == 0)
        #expect(try giving.length() == 65536)
    }

    /// Whoever believed in the old length would grow the file without taking turns.
    @Test func whatIsKnownOfTheLengthFollowsIt() throws {
        let driver = try driver([])
        func known() -> Int { driver.file.knownLength.load(ordering: .relaxed) }
        #expect(known() == 65536)
        try driver.put([1], at: 70000)
        #expect(known() == 70001)
        try driver.truncate(to: 100, preallocation: .off)
        #expect(known() == 100)
        try driver.writeZeroes(at: 50, count: 100, flags: .mayUnmap)
        #expect(known() == 150)
        #expect(failure { try driver.truncate(to: 200, preallocation: .metadata) } != nil)
        #expect(known() == 150)
    }

    @Test func reservingFallsBackToWriting() throws {
        let driver = try driver(.allocate)
        try driver.truncate(to: 1 << 20, preallocation: .falloc)
        #expect(driver.allocatedSize() == 1 << 20)
    }

    @Test func withoutASearchForHolesAllIsData() throws {
        let driver = try driver(.seekData)
        try driver.truncate(to: 1 << 20, preallocation: .off)
        #expect(
            try driver.extent(at: 1 << 19, limit: 4096) == Extent(.data(hostOffset: 1 << 19), length: 4096))
    }

    private func expectZeroes(_ driver: FileDriver, _ range: Range<Int>) throws {
        #expect(try driver.bytes(at: range.lowerBound, range.count).allSatisfy { $0 == 0 })
        if range.lowerBound > 0 { #expect(try driver.bytes(at: range.lowerBound - 1, 1) == [1]) }
        if range.upperBound < 65536 { #expect(try driver.bytes(at: range.upperBound, 1) == [1]) }
    }
}
