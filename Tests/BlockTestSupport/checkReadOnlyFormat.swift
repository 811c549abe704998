import BlockCore

/// Judges a driver of a format that is only read: its bytes from any place, by many threads, with calls that
/// fail, from files that are cut off anywhere; and that writing is refused.
///
/// - Parameters:
///   - image: the file.
///   - expected: what the guest must see.
/// - Throws: ``Mismatch`` at the first finding.
public func checkReadOnlyFormat(
    _ driver: any FormatDriver.Type, image: SparseBytes, expected: [UInt8], seed: UInt64 = TestEffort.seed
) throws {
    let store = TestStore(["disk": image])
    func open(_ store: TestStore, readOnly: Bool = true) throws(BlockError) -> BlockNode {
        try ImageOpener(registry: store.registry([driver, TestRaw.format]))
            .open("disk", settings: OpenSettings(readOnly: readOnly))
    }
    let node = try open(store)
    guard node.driverName == driver.name else { throw Mismatch("probed as \(node.driverName)") }
    guard try node.readBytes(at: 0, count: node.length()) == expected else { throw Mismatch("other bytes") }
    try WorkerThreads.run(4) { (thread) throws(BlockError) in
        var random = SeededRandom(seed: seed &+ UInt64(thread))
        for _ in 0..<TestEffort.scaled(100) {
            let start = random.number(in: 0..<expected.count)
            let count = random.number(in: 0..<min(expected.count - start, 1 << 17) + 1)
            guard try node.readBytes(at: start, count: count) == Array(expected[start..<start + count]) else {
                throw BlockError(.corrupt, "thread \(thread) read other bytes at \(start)+\(count)")
            }
        }
    }
    try node.close()
    if let writable = try? open(store, readOnly: false) {
        try writable.close()
        throw Mismatch("it was opened for writing")
    }
    var number = 1
    while true {
        store.faults.arm(number, .ioErrorOnce)
        let bytes = try? open(store).readBytes(at: 0, count: expected.count)
        let failed = store.faults.failures > 0
        store.faults.disarm()
        guard bytes == (failed ? nil : expected) else { throw Mismatch("call \(number) failed unnoticed") }
        if !failed { break }
        number += 1
    }
    for length in CrashPoints.chosen(from: image.count, seed: seed) where length < image.count {
        var cut = image
        cut.resize(to: length)
        // It may be refused, or read as far as it goes; it must not trap or hang.
        _ = try? open(TestStore(["disk": cut])).readBytes(at: 0, count: expected.count)
    }
    guard store["disk"]?.read(at: 0, count: image.count) == image.read(at: 0, count: image.count) else {
        throw Mismatch("reading changed the file")
    }
}
