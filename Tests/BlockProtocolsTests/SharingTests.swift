import BlockCore
import BlockFilters
import Foundation
import Testing

@testable import BlockProtocols

/// Sharing blocks between files of the host.
@Suite struct SharingTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private let block = [UInt8](repeating: 7, count: 8192)

    private func pair(_ bytes: [UInt8]) throws -> (source: FileDriver, target: FileDriver) {
        let source = try FileDriver(opening: try scratch.file("s", bytes))
        return (source, try FileDriver(opening: try scratch.file("t", [1, 2, 3]), settings: writing()))
    }

    /// Whatever the file system can: shared or refused, and nothing in between.
    @Test func asksWithoutChangingAnything() throws {
        let (source, target) = try pair(block)
        let can = target.sharesSpace(with: source)
        #expect(try target.bytes(at: 0, 3) == [1, 2, 3])
        #expect(try target.length() == 3)
        #expect(try target.shareRange(from: source, at: 0, to: 4096, count: 4096) == can)
        #expect(try target.length() == (can ? 8192 : 3))
        #expect(try source.bytes(at: 0, 8192) == block)
        #expect(target.lacks(.shareRange) == !can)
    }

    @Test func refusesWhatIsNoWholeBlockOrNoFile() throws {
        let (source, target) = try pair(block + [9])
        for (from, to, count) in [(512, 0, 4096), (0, 512, 4096), (0, 0, 512), (8192, 0, 4096), (0, 0, 0)] {
            #expect(try !target.shareRange(from: source, at: from, to: to, count: count))
        }
        #expect(!target.lacks(.shareRange))
        #expect(try !target.shareRange(from: MemoryDriver(block), at: 0, to: 0, count: 4096))
        #expect(!target.sharesSpace(with: MemoryDriver(block)))
        #expect(!target.sharesSpace(with: target))
        #expect(!source.sharesSpace(with: target))
        let below = BlockNode(.storage(target), filename: "t", settings: writing())
        let filter = BlockNode(
            .filter(ThrottleDriver(over: below, group: try ThrottleGroup())), filename: "t",
            settings: writing())
        #expect(filter.sharingStorage == nil)
        let place = PlainPlace(storage: source, offset: 0, count: 4096)
        #expect(try filter.share(place, at: 0, count: 4096) == 0)
        #expect(try filter.plainPlace(at: 0, limit: 1) == nil)
        #expect(try target.bytes(at: 0, 3) == [1, 2, 3])
    }

    @Test func isNotAskedAgainOnceItFailed() throws {
        let (source, target) = try pair(block)
        target.note(missing: .shareRange)
        #expect(!target.sharesSpace(with: source))
        #expect(try !target.shareRange(from: source, at: 0, to: 0, count: 4096))
    }
}
