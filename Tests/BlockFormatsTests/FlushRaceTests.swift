import BlockCore
import BlockFormats
import BlockTestSupport
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
        try options.set(.size, to: String(4 << 20))
        try opener.create("disk", format: name, options: options)
        let node = try opener.open("disk", format: name, settings: OpenSettings(readOnly: false))
        try node.write([UInt8](repeating: 1, count: 1 << 20).span.bytes, at: 0)
        try node.flush()

        let count = zeroing ? 1 << 20 : 1536
        pause.arm(count: count)
        // Some formats zero without touching the data.
        let writer = pause.hold {
            if zeroing {
                try node.writeZeroes(at: 0, count: count, flags: [])
            } else {
                try node.write([UInt8](repeating: 2, count: count).span.bytes, at: 0)
            }
        }
        let flusher = TestThread { try node.flush() }
        // Long enough for the flush to end, if that does not wait for the write.
        flusher.wait(milliseconds: 500)
        pause.resume()
        writer.wait()
        flusher.wait()
        try node.flush()
        let unflushed = store.log.reversed().prefix { if case .flush = $0 { false } else { true } }
        #expect(unflushed.isEmpty, "\(unflushed.count) changes are not durable")
        try node.close()
    }

    /// While the disk works on a flush, nobody waits who reads, or writes to what is there; and what is
    /// allocated meanwhile is there afterwards.
    @Test(.timeLimit(.minutes(2)), arguments: formats, 0..<3) func aFlushKeepsNobodyOut(
        _ name: String, _ earlierFlushes: Int
    ) throws {
        let (store, pause) = (TestStore(), PausePoint())
        let opener = ImageOpener(
            registry: DriverRegistry(formats: StandardFormats.all, protocols: [pause.entry(store)]))
        var options = try opener.createOptions(format: name, filename: "disk")
        try options.set(.size, to: String(8 << 20))
        try opener.create("disk", format: name, options: options)
        let node = try opener.open("disk", format: name, settings: OpenSettings(readOnly: false))
        let megabyte = 1 << 20
        @Sendable func fill(_ number: Int) throws {
            try node.write(
                [UInt8](repeating: UInt8(number + 1), count: megabyte).span.bytes, at: number * megabyte)
        }
        try fill(0)
        try node.flush()
        try fill(1)
        pause.armFlush(after: earlierFlushes)
        let flusher = pause.hold { try node.flush() }
        let user = TestThread {
            _ = try node.readBytes(at: megabyte, count: 4096)
            try node.write([UInt8](repeating: 99, count: 512).span.bytes, at: 1024)
        }
        #expect(user.wait(milliseconds: 10_000), "the flush kept the tables' lock")
        let other = TestThread { try fill(2) }
        // Formats whose allocation waits for the flush do not come to an end yet.
        other.wait(milliseconds: 20)
        pause.resume()
        for thread in [flusher, user, other] { thread.wait() }
        try node.flush()
        try node.close()
        let again = try opener.open("disk", format: name, settings: OpenSettings())
        #expect(try again.readBytes(at: 1024, count: 512) == [UInt8](repeating: 99, count: 512))
        for number in 0..<3 {
            let bytes = try again.readBytes(at: number * megabyte + 4096, count: 4096)
            #expect(bytes == [UInt8](repeating: UInt8(number + 1), count: 4096))
        }
        try again.close()
    }
}
