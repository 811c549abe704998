import BlockCore
import BlockProtocols
import BlockTestSupport
import Testing

/// `null-co` and `null-aio`: devices that keep nothing.
@Suite struct NullDriverTests {
    private func device(_ options: String, _ clock: ManualClock = ManualClock()) throws -> NullDriver {
        var tree = try OptionTree.parse(options)
        let device = try NullDriver.open("null-co://", &tree, clock: clock)
        #expect(tree.isEmpty)
        return device
    }

    @Test func theSizeIsAGibibyteIfNotStated() throws {
        #expect(try device("").length() == .gib(1))
        #expect(try device("size=1000").length() == 1000)
        #expect(try device("size=64k").length() == 65536)
    }

    @Test func nothingIsKept() throws {
        let device = try device("size=4k")
        try device.put([1, 2, 3], at: 5)
        #expect(try device.bytes(at: 4, 4) == [0, 0, 0, 0])
        try device.discard(at: 0, count: 4096)
        try device.flush()
        #expect(failure { try device.truncate(to: 1, preallocation: .off) }?.kind == .unsupported)
    }

    /// A device that is not known to read as zeroes shows data, so that a copy reads it.
    @Test func theMapShowsZeroesWhereTheyAreStated() throws {
        #expect(
            try device("size=1M,read-zeroes=on").extent(at: 512, limit: 1024)
                == Extent(.zero(hostOffset: 512), length: 1024))
        #expect(
            try device("size=1M").extent(at: 512, limit: 1024)
                == Extent(.data(hostOffset: 512), length: 1024))
    }

    @Test func eachRequestTakesItsTime() throws {
        let clock = ManualClock(movesByItself: true)
        let device = try device("latency-ns=1000", clock)
        let calls: [(String, Int, () throws -> Void)] = [
            ("read", 1000, { _ = try device.bytes(at: 0, 512) }),
            ("write", 1000, { try device.put([1], at: 0) }),
            ("zero", 1000, { try device.writeZeroes(at: 0, count: 9, flags: []) }),
            ("flush", 1000, { try device.flush() }),
            ("discard", 0, { try device.discard(at: 0, count: 512) }),
            ("length", 0, { _ = try device.length() }),
        ]
        for (name, time, call) in calls {
            let before = clock.now()
            try call()
            #expect(clock.now() - before == time, "\(name)")
        }
    }

    /// Requests wait each for themselves.
    @Test func requestsWaitAtTheSameTime() throws {
        let clock = ManualClock()
        let device = try device("latency-ns=500", clock)
        let threads = (0..<3).map { _ in TestThread { try device.flush() } }
        clock.waitForWaits(3)
        #expect(clock.deadlines == [500, 500, 500])
        clock.advance(by: 499)
        #expect(clock.deadlines.count == 3)
        clock.advance(by: 1)
        threads.forEach { $0.wait() }
        #expect(clock.deadlines.isEmpty)
    }

    @Test func optionsAreChecked() throws {
        #expect(failure { _ = try device("latency-ns=-1") }?.message == "latency-ns is invalid")
        #expect(failure { _ = try device("latency-ns=18446744073709551615") }?.kind == .invalidArgument)
        #expect(
            failure { _ = try device("latency-ns=abc") }?.message
                == "Parameter 'latency-ns' expects a number")
        #expect(failure { _ = try device("read-zeroes=2") }?.kind == .invalidArgument)
        #expect(failure { _ = try device("size=-1") }?.kind == .invalidArgument)
    }

    @Test(arguments: ["null-co", "null-aio"]) func namesOpenThem(_ name: String) throws {
        let opener = ImageOpener(
            registry: DriverRegistry(formats: [], protocols: StandardProtocols.all))
        let node = try opener.open(
            options: try OptionTree.parse("driver=\(name),size=1M"),
            settings: OpenSettings(readOnly: false))
        #expect(node.driverName == name)
        #expect(try node.length() == 1 << 20)
        try node.write([1].span.bytes, at: 0)
        try node.close()
        let wrong = try OptionTree.parse("driver=\(name),filename=\(name)://x")
        #expect(
            failure { _ = try opener.open(options: wrong) }?.message
                == "The only allowed filename for this driver is '\(name)://'")
    }
}
