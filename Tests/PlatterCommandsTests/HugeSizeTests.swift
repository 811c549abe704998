import BlockTestSupport
import Testing

/// Sizes near 2^63 end in a message or a result, never in a trap.
@Suite struct HugeSizeTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private static let sizes = [
        "9223372036854775807", "9223372036854775296", "9223372036854710272", "9223372035781033984",
        "4611686018427387904", "8E", "18446744073709551615", "36028797018963968",
    ]
    private static let formats = [
        "raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels", "luks",
    ]

    @Test(arguments: formats) func measuringEndsInAMessage(_ format: String) throws {
        let calls = Self.sizes.map { "qemu-img measure -O \(format) --size \($0)" }
        try expectNoTrap(calls)
    }

    @Test func everyOtherSizeOfTheCommandLineIsChecked() throws {
        try fixture.shell("qemu-img create -f raw r 1M; qemu-img create -f qcow2 q 1M", linked: true)
        let calls = Self.sizes.flatMap { size in
            [
                "qemu-img resize q \(size)", "qemu-img resize q +\(size)",
                "qemu-img resize --shrink q -\(size)",
                "qemu-img resize -f raw r +\(size)", "qemu-img dd if=q of=o bs=\(size)",
                "qemu-img dd if=q of=o bs=1M count=\(size)", "qemu-img dd if=q of=o bs=1M skip=\(size)",
                "qemu-img map -s \(size) q", "qemu-img map -l \(size) q", "qemu-img map -s 512 -l \(size) q",
                "qemu-img bench -c 1 -o \(size) q", "qemu-img bench -c 1 -s \(size) q",
                "qemu-img bench -c 2 -S \(size) q", "qemu-img convert -S \(size) -O raw q o",
                "qemu-img convert -r \(size) -O raw q o", "qemu-img bitmap --add -g \(size) q b",
                "qemu-img commit -r \(size) q", "qemu-io -c 'read \(size) 512' q",
                "qemu-io -c 'read 512 \(size)' q", "qemu-io -c 'write -z \(size) \(size)' q",
                "qemu-io -c 'discard 512 \(size)' q", "qemu-io -c 'truncate \(size)' q",
                "qemu-io -c 'alloc \(size) \(size)' q", "qemu-io -c 'readv \(size) 512 \(size)' q",
            ]
        }
        try expectNoTrap(calls)
    }

    /// Runs all of them in one shell, and answers for each that it ended by itself.
    private func expectNoTrap(_ calls: [String]) throws {
        let text = calls.map { "timeout 20 \($0) > log 2>&1; echo $?" }.joined(separator: "\n")
        let statuses = try fixture.shell(text, linked: true).output.split(separator: "\n")
        #expect(statuses.count == calls.count)
        for (call, status) in zip(calls, statuses) where (Int(status) ?? 255) >= 124 {
            Issue.record("\(call): status \(status)")
        }
    }
}
