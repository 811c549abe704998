import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// A flush that ends before a write does says nothing of it: the next one has to.
@Suite struct FlushRaceTests {
    static let formats = StandardFormats.all.filter { $0 is any Creatable.Type && $0.name != "luks" }
        .map { $0.name }

    @Test(.timeLimit(.minutes(2)), arguments: formats, [false, true]) func theNextFlushCounts(
        _ name: String, _ zeroing: Bool
    ) throws {
        let (store, pause) = (TestStore(), PausePoint())
        let opener = ImageOpener(
            registry: DriverRegistry(formats: StandardFormats.all, protocols: [pause.entry(store)]))
        var options = try opener.createOptions(format: name, filename: "disk")
        options.set(.size, to: String(4 << 20))
        try opener.create("disk", format: name, options: options)
        let node = try opener.open("disk", format: name, settings: OpenSettings(readOnly: false))
        try node.write([UInt8](repeating: 1, count: 1 << 20).span.bytes, at: 0)
        try node.flush()

        let count = zeroing ? 1 << 20 : 1536
        pause.arm(count: count)
        let writer = Thread {
            if zeroing {
                try? node.writeZeroes(at: 0, count: count, flags: [])
            } else {
                try? node.write([UInt8](repeating: 2, count: count).span.bytes, at: 0)
            }
        }
        writer.start()
        // Some formats zero without touching the data.
        while !pause.isReached && !writer.isFinished { Thread.sleep(forTimeInterval: 0.001) }
        let flusher = Thread { try? node.flush() }
        flusher.start()
        // Long enough for the flush to end, if that does not wait for the write.
        for _ in 0..<50 where !flusher.isFinished { Thread.sleep(forTimeInterval: 0.01) }
        pause.resume()
        while !writer.isFinished || !flusher.isFinished { Thread.sleep(forTimeInterval: 0.001) }
        try node.flush()
        let unflushed = store.log.reversed().prefix { if case .flush = $0 { false } else { true } }
        #expect(unflushed.isEmpty, "\(unflushed.count) changes are not durable")
        try node.close()
    }
}
