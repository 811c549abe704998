import BlockCore
import BlockTestSupport
import Foundation
import Testing

@testable import BlockProtocols

@Suite struct CopyTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    @Test func copiesInsideTheKernelAndGrowsTheTarget() throws {
        var random = SeededRandom(seed: 4)
        let bytes = random.bytes(300_000)
        let source = try FileDriver(opening: try scratch.file("s", bytes))
        let target = try FileDriver(opening: try scratch.file("t", [1, 2, 3]), settings: writing())
        #expect(try target.copyRange(from: source, at: 1000, to: 5, count: 200_000) == 200_000)
        #expect(try target.length() == 200_005)
        #expect(try target.bytes(at: 0, 5) == [1, 2, 3, 0, 0])
        #expect(try target.bytes(at: 5, 200_000) == Array(bytes[1000..<201_000]))
    }

    @Test func copiesNoMoreThanThereIs() throws {
        let source = try FileDriver(opening: try scratch.file("s", [1, 2, 3]))
        let target = try FileDriver(opening: try scratch.file("t"), settings: writing())
        #expect(try target.copyRange(from: source, at: 1, to: 0, count: 100) == 2)
        #expect(try target.bytes(at: 0, 3) == [2, 3, 0])
        #expect(try target.length() == 2)
        #expect(try target.copyRange(from: source, at: 50, to: 0, count: 100) == 0)
    }

    @Test func answersZeroWhereItCannot() throws {
        let target = try FileDriver(opening: try scratch.file("t", [9]), settings: writing())
        #expect(try target.copyRange(from: MemoryDriver([1, 2]), at: 0, to: 0, count: 2) == 0)
        #expect(try target.copyRange(from: target, at: 0, to: 0, count: 1) == 0)
        let source = try FileDriver(opening: try scratch.file("s", [1, 2]))
        target.note(missing: .copyRange)
        #expect(try target.copyRange(from: source, at: 0, to: 0, count: 2) == 0)
        #expect(try target.bytes(at: 0, 2) == [9, 0])
    }

    @Test func readOnlyTargetsFail() throws {
        let source = try FileDriver(opening: try scratch.file("s", [1, 2]))
        let target = try FileDriver(opening: try scratch.file("t", [9, 9]))
        let error = failure { _ = try target.copyRange(from: source, at: 0, to: 0, count: 2) }
        #expect(error?.kind == .io)
        #expect(error?.errno == 9)
    }
}
