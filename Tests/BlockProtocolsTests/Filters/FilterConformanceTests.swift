import BlockCore
import BlockFilters
import BlockTestSupport
import Synchronization
import Testing

/// Every filter that opens by name behaves as a disk: random operations give what a ReferenceDisk gives, also
/// after reopening, and from several threads; and it closes all that it opened.
@Suite struct FilterConformanceTests {
    static let size = 256 << 10
    private static let below = "driver=qcow2,file.filename="

    /// The options of each filter over images `a`, `b`, `c`; the name is the first word.
    static let filters = [
        "blkdebug driver=blkdebug,image.driver=qcow2,image.file.filename=a",
        "blkdebug driver=blkdebug,align=512,image.driver=qcow2,image.file.filename=a",
        "blkverify driver=blkverify,raw.filename=raw,test.file.filename=a",
        "blklogwrites driver=blklogwrites,file.driver=qcow2,file.file.filename=a,log.filename=log",
        "copy-before-write driver=copy-before-write,file.driver=qcow2,file.file.filename=a,"
            + "target.driver=qcow2,target.file.filename=b",
        "compress driver=compress,file.driver=qcow2,file.file.filename=a",
        "copy-on-read driver=copy-on-read,file.driver=qcow2,file.file.filename=a",
        "preallocate driver=qcow2,file.driver=preallocate,file.file.filename=a",
        "quorum driver=quorum,vote-threshold=2,children.0.file.filename=a,children.1.file.filename=b,"
            + "children.2.file.filename=c",
        "quorum driver=quorum,vote-threshold=1,read-pattern=fifo,children.0.file.filename=a",
        "throttle driver=throttle,limits.iops-total=1000000000,file.driver=qcow2,file.file.filename=a",
        // On each other.
        "blklogwrites driver=blklogwrites,file.driver=compress,file.file.driver=qcow2,"
            + "file.file.file.filename=a,log.filename=log",
        "copy-on-read driver=copy-on-read,file.driver=blkverify,file.raw.filename=raw,"
            + "file.test.file.filename=a",
    ]

    @Test func allAreHere() {
        let tested = Set(Self.filters.compactMap { $0.split(separator: " ").first.map(String.init) })
        // A snapshot cannot be written.
        #expect(tested.union(["snapshot-access"]) == Set(StandardFilters.all.map { $0.name }))
    }

    private func images() throws -> FilterImages {
        let images = FilterImages()
        for name in ["a", "b", "c"] { try images.create(name, size: Self.size) }
        images.store["raw"] = SparseBytes(count: Self.size)
        images.store["log"] = SparseBytes()
        return images
    }

    private func options(_ filter: String) -> String { String(filter.split(separator: " ")[1]) }

    @Test(arguments: filters) func behavesAsADisk(_ filter: String) throws {
        let images = try images()
        var random = SeededRandom(seed: 16)
        var model = ReferenceDisk(size: Self.size)
        let node = try images.open(options(filter))
        for step in 0..<150 {
            let offset = random.number(in: 0..<Self.size)
            let count = random.number(in: 1..<min(20000, Self.size - offset + 1))
            switch random.number(in: 0..<8) {
            case 0..<3:
                let bytes = Pattern.bytes(stamp: step, at: offset, count: count)
                try node.write(bytes.span.bytes, at: offset)
                model.write(bytes, at: offset)
            case 3:
                try node.writeZeroes(at: offset, count: count, flags: step % 2 == 0 ? .mayUnmap : [])
                model.writeZeroes(offset..<offset + count)
            case 4: try node.flush()
            case 5 where step % 3 == 0 && !filter.hasPrefix("copy"):
                try node.reopen(readOnly: true)
                #expect(failure { try node.put([1], at: 0) }?.kind == .readOnly)
                #expect(try node.readBytes(at: offset, count: count) == model.read(offset..<offset + count))
                try node.reopen(readOnly: false)
            default:
                #expect(
                    try node.readBytes(at: offset, count: count) == model.read(offset..<offset + count),
                    "\(filter) step \(step)")
            }
        }
        #expect(try node.length() == Self.size)
        #expect(failure { _ = try node.readBytes(at: Self.size, count: 1) }?.kind == .io)
        #expect(failure { try node.put([1, 2], at: Self.size - 1) }?.kind == .io)
        #expect(failure { _ = try node.readBytes(at: .max - 4, count: 8) } != nil)
        #expect(failure { try node.put([1, 2], at: .max - 1) } != nil)
        #expect(failure { try node.put([1, 2], at: -1) } != nil)
        try node.close()
        #expect(images.store.openDisks == 0)
        let again = try images.open(options(filter), readOnly: filter.hasPrefix("copy") ? false : true)
        #expect(try again.readBytes(at: 0, count: Self.size) == model.read(0..<Self.size))
        try again.close()
        for name in ["a", "b", "c"] { try check(name, in: images) }
    }

    private func check(_ name: String, in images: FilterImages) throws {
        let image = try images.open("driver=qcow2,file.filename=\(name)", readOnly: true)
        let checkable = try #require(image.format as? any Checkable)
        let result = try checkable.check(repair: .none) { _ in }
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0, "\(name)")
        try image.close()
    }

    /// Each thread has stripes of its own, which share units with those of the others.
    @Test(arguments: filters) func threadsDoNotDisturbEachOther(_ filter: String) throws {
        let images = try images()
        let node = try images.open(options(filter))
        let stripe = 1000
        let written = Mutex<[Int: UInt8]>([:])
        try WorkerThreads.run(4) { thread throws(BlockError) in
            var random = SeededRandom(seed: UInt64(thread))
            for step in 1...UInt8(150) {
                let index = random.number(in: 0..<20) * 4 + thread
                try node.write([UInt8](repeating: step, count: stripe).span.bytes, at: index * stripe)
                written.withLock { $0[index] = step }
            }
        }
        for (index, step) in written.withLock({ $0 }) {
            let read = try node.readBytes(at: index * stripe, count: stripe)
            #expect(read == [UInt8](repeating: step, count: stripe), "stripe \(index)")
        }
        try node.close()
        #expect(images.store.openDisks == 0)
    }

    /// Items that a filter may or may not take, and values.
    private static let items = [
        "align=512", "align=3", "vote-threshold=1", "vote-threshold=9", "log-append=on", "bottom=x",
        "read-pattern=fifo", "children.1.file.filename=b", "children.7.driver=raw", "read-only=on",
        "nosuch=1",
        "detect-zeroes=on", "node-name=n", "file.node-name=n", "file.driver=quorum", "test.driver=raw",
        "log.driver=preallocate", "prealloc-size=18446744073709551615", "log-sector-size=4096",
        "driver=qcow2",
        "file=blkverify:a:b", "file.filename=json:{", "rewrite-corrupted=on", "x-image=b", "=", "a.b.c", "",
    ]
    private static let values = [
        "", "0", "-1", "a", "quorum", "raw", "on", "9223372036854775807", "blkdebug::a",
    ]

    /// Option strings with random changes open a filter or are refused; nothing stays open.
    @Test func changedOptionsAreRefusedOrWork() throws {
        let images = try images()
        var random = SeededRandom(seed: 4)
        var opened = 0
        for _ in 0..<1500 {
            let filter = options(Self.filters[random.number(in: 0..<Self.filters.count)])
            var items = filter.split(separator: ",").map(String.init)
            for _ in 0..<random.number(in: 1..<3) {
                let place = random.number(in: 0..<items.count)
                switch random.number(in: 0..<4) {
                case 0 where items.count > 1: items.remove(at: place)
                case 1:
                    let key = items[place].prefix { $0 != "=" }
                    items[place] = key + "=" + Self.values[random.number(in: 0..<Self.values.count)]
                default: items.append(Self.items[random.number(in: 0..<Self.items.count)])
                }
            }
            let text = items.joined(separator: ",")
            guard let tree = try? OptionTree.parse(text) else { continue }
            if let node = try? images.opener.open(options: tree) {
                opened += 1
                _ = try? node.readBytes(at: 0, count: 5000)
                try? node.close()
            }
            #expect(images.store.openDisks == 0, "\(text)")
        }
        #expect(opened > 100)
    }

    /// Whatever call fails while a filter is opened, nothing stays open; and no failed change is a crash.
    @Test(arguments: filters) func eachFailedCallIsAnError(_ filter: String) throws {
        let images = try images()
        for number in 1..<400 {
            images.store.faults.arm(number, .ioErrorOnce)
            var failed: BlockError?
            do {
                let node = try images.open(options(filter))
                do {
                    try node.put([1, 2, 3], at: 5000)
                    _ = try node.readBytes(at: 0, count: 9000)
                    try node.flush()
                } catch { failed = error as? BlockError }
                do { try node.close() } catch { failed = error }
            } catch { failed = error as? BlockError }
            #expect(images.store.openDisks == 0, "call \(number)")
            let count = images.store.faults.failures
            images.store.faults.disarm()
            if count == 0 {
                #expect(failed == nil, "\(String(describing: failed))")
                return
            }
        }
        Issue.record("the operation never succeeds")
    }
}
