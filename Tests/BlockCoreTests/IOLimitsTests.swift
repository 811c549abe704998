import BlockCore
import BlockTestSupport
import Testing

/// Limits as options, and what they may be.
@Suite struct IOLimitsTests {
    private func limits(_ text: String, _ prefix: String = "limits.") throws -> IOLimits {
        var options = try OptionTree.parse(text)
        var limits = IOLimits()
        try limits.take(from: &options, prefix: prefix)
        #expect(options.isEmpty)
        return limits
    }

    @Test(arguments: ["limits.", "throttling.", "x-"]) func options(_ prefix: String) throws {
        let text = [
            "bps-total=1M", "bps-total-max=0x200000", "bps-total-max-length=3", "iops-read=5", "iops-write=7",
            "iops-write-max=9", "iops-size=4k",
        ].map { prefix + $0 }.joined(separator: ",")
        var expected = IOLimits()
        expected.bytes.total = IOLimits.Rate(average: 1 << 20, maximum: 2 << 20, burstSeconds: 3)
        expected.operations.read.average = 5
        expected.operations.write = IOLimits.Rate(average: 7, maximum: 9)
        expected.operationBytes = 4096
        let limits = try limits(text, prefix)
        #expect(limits == expected)
        #expect(!limits.isUnlimited)
        try limits.validate()
    }

    @Test func noOptionsAreNoLimits() throws {
        var options = try OptionTree.parse("limits.foo=1,bps-total=5")
        var limits = IOLimits()
        #expect(try !limits.take(from: &options, prefix: "limits."))
        #expect(options.keys == ["limits.foo", "bps-total"])
        #expect(limits.isUnlimited)
        #expect(try limits.take(from: &options, prefix: ""))
        #expect(limits.bytes.total.average == 5)
    }

    @Test(arguments: [
        (
            "limits.bps-total=1,limits.bps-read=1",
            "bps/iops/max total values and read/write values cannot be used"
        ),
        (
            "limits.bps-read-max=1,limits.bps-total-max=1",
            "bps/iops/max total values and read/write values cannot"
        ),
        (
            "limits.iops-total=1,limits.iops-write=1",
            "bps/iops/max total values and read/write values cannot be"
        ),
        ("limits.iops-size=1", "iops size requires an iops value to be set"),
        ("limits.bps-total=1000000000000001", "bps/iops/max values must be within [0, 1000000000000000]"),
        ("limits.bps-read=5,limits.bps-read-max=4", "bps_max/iops_max cannot be lower than bps/iops"),
        ("limits.bps-read-max=4", "bps_max/iops_max require corresponding bps/iops values"),
        ("limits.bps-read=1,limits.bps-read-max-length=2", "burst length set without burst rate"),
        ("limits.bps-read=1,limits.bps-read-max-length=0", "the burst length cannot be 0"),
        (
            "limits.bps-read=1,limits.bps-read-max=1000000000000000,limits.bps-read-max-length=2",
            "burst length too high for this burst rate"
        ),
    ]) func contradictions(_ text: String, _ message: String) throws {
        let limits = try limits(text)
        let error = blockError { () throws(BlockError) in try limits.validate() }
        #expect(error?.kind == .invalidArgument)
        #expect(error?.message.hasPrefix(message) == true, "\(error?.message ?? "valid")")
        #expect(blockError { () throws(BlockError) in try ThrottleGroup(limits: limits) } != nil)
        let node = nullNode()
        #expect(blockError { () throws(BlockError) in try node.setLimits(limits) } != nil)
        #expect(node.limits == nil)
    }

    @Test(arguments: [
        ("x-bps-total=1M", "Parameter 'x-bps-total' expects integer"),
        ("x-bps-total=", "Parameter 'x-bps-total' expects integer"),
        ("x-bps-total=9223372036854775808", "Parameter 'x-bps-total' expects integer"),
        (
            "x-bps-total-max-length=4294967296",
            "x-bps-total-max-length value must be in the range [0, 4294967295]"
        ),
        (
            "limits.bps-total-max-length=-1",
            "bps-total-max-length value must be in the range [0, 4294967295]"
        ),
    ]) func numbers(_ text: String, _ message: String) throws {
        var options = try OptionTree.parse(text)
        var limits = IOLimits()
        for prefix in ["x-", "limits."] where text.hasPrefix(prefix) {
            let error = blockError { () throws(BlockError) in
                try limits.take(from: &options, prefix: prefix, as: .integer)
            }
            #expect(error?.message == message)
        }
    }

    @Test func numbersOfJSONAreNoTexts() throws {
        var limits = IOLimits()
        var options = try JSONReader.options(#"{"limits": {"bps-total": 5, "iops-total": "6"}}"#)
        let error = blockError { () throws(BlockError) in
            try limits.take(from: &options, prefix: "limits.", as: .jsonNumber)
        }
        #expect(error?.message == "Invalid parameter type for 'limits.iops-total', expected: integer")
        #expect(limits.bytes.total.average == 5)
    }
}
