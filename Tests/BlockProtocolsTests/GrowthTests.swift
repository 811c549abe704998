import BlockCore
import BlockProtocols
import Foundation
import Testing

/// Files that grow by appending get space ahead, and give back what they did not use.
@Suite struct GrowthTests {
    let scratch: Scratch
    let path: String
    init() throws {
        scratch = try Scratch()
        path = try scratch.file("a")
    }

    private static let mebibyte = [UInt8](repeating: 7, count: 1 << 20)

    private func grown(toMebibytes count: Int, _ settings: OpenSettings = writing()) throws -> FileDriver {
        let driver = try FileDriver(opening: path, settings: settings)
        for index in 0..<count { try driver.put(Self.mebibyte, at: index << 20) }
        return driver
    }

    private func allocated() throws -> Int {
        try #require(FileDriver(opening: path, settings: OpenSettings(forceShare: true)).allocatedSize())
    }

    @Test func spaceIsTakenAheadAndGivenBackAtTheEnd() throws {
        let driver = try grown(toMebibytes: 20)
        #expect(try allocated() > 70 << 20)
        #expect(try driver.length() == 20 << 20)
        driver.close()
        #expect(try allocated() < 21 << 20)
        let bytes = try scratch.contents("a")
        #expect(bytes == [UInt8](repeating: 7, count: 20 << 20))
    }

    @Test func aSmallFileTakesNothing() throws {
        let driver = try grown(toMebibytes: 12)
        #expect(try allocated() < 13 << 20)
        driver.close()
    }

    @Test func anotherLengthGivesItBack() throws {
        let driver = try grown(toMebibytes: 20)
        try driver.truncate(to: 40 << 20, preallocation: .off)
        #expect(try allocated() < 21 << 20)
        try driver.put([1], at: (40 << 20) - 1)
        driver.close()
        var expected = [UInt8](repeating: 7, count: 20 << 20) + [UInt8](repeating: 0, count: 20 << 20)
        expected[expected.count - 1] = 1
        #expect(try scratch.contents("a") == expected)
    }

    @Test func becomingReadOnlyGivesItBack() throws {
        let driver = try grown(toMebibytes: 20)
        try driver.reopen(readOnly: true)
        #expect(try allocated() < 21 << 20)
        driver.close()
    }

    @Test func writesFarApartStaySparse() throws {
        let driver = try FileDriver(opening: path, settings: writing())
        for index in 0..<40 { try driver.put(Self.mebibyte, at: index << 24) }
        #expect(try allocated() < 41 << 20)
        driver.close()
    }
}
