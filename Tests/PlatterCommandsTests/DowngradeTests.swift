import BlockTestSupport
import Testing

/// `amend -o compat=0.10`, and what of version 3 goes with it.
@Suite struct DowngradeTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    private func downgrade(_ name: String) throws -> CommandOutcome {
        try fixture.platter("amend", "-o", "compat=0.10", name)
    }

    private func expectVersion2(_ name: String) throws {
        let info = try fixture.platter("info", name).output
        #expect(info.contains("compat: 0.10") && !info.contains("bitmaps"), "\(info)")
        #expect(try fixture.platter("check", name).status == 0)
        let peer = try fixture.shell("qemu-img check -q \(name) && qemu-io -r -c 'read -P 7 0 64k' \(name)")
        #expect(peer.status == 0 || peer.status == 127, "\(peer.text)")
    }

    @Test func bitmapsGoWithAWarning() throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
        for name in ["one", "t\u{1b}wo"] { try fixture.platter("bitmap", "--add", "d.qcow2", name) }
        try fixture.platter("io", "-c", "write -P 7 0 64k", "d.qcow2")
        let outcome = try downgrade("d.qcow2")
        #expect(outcome.status == 0 && outcome.output.isEmpty, "\(outcome.text)")
        #expect(
            outcome.error == "platter: warning: compat=0.10 has no bitmaps; removed: 'one', 't\\x1bwo'\n")
        try expectVersion2("d.qcow2")
        #expect(try fixture.platter("amend", "-o", "compat=0.10", "d.qcow2").error.isEmpty)
    }

    @Test func bitmapsInUseGoToo() throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
        try fixture.platter("bitmap", "--add", "d.qcow2", "b")
        try fixture.platter("io", "-c", "write -P 7 0 64k", "-c", "flush", "-c", "sigraise 9", "d.qcow2")
        #expect(try fixture.platter("info", "d.qcow2").output.contains("in-use"))
        #expect(try downgrade("d.qcow2").status == 0)
        try expectVersion2("d.qcow2")
    }

    @Test func zstdGoesWhereNothingIsCompressed() throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "d.qcow2", "1M")
        try fixture.platter("io", "-c", "write -P 7 0 64k", "d.qcow2")
        let outcome = try downgrade("d.qcow2")
        #expect(outcome.status == 0 && outcome.text.isEmpty, "\(outcome.text)")
        try expectVersion2("d.qcow2")
        try fixture.platter("io", "-c", "write -c -P 9 64k 64k", "d.qcow2")
        let peer = try fixture.shell("qemu-io -r -c 'read -P 9 64k 64k' d.qcow2")
        #expect(peer.status == 0 || peer.status == 127, "\(peer.text)")
    }

    /// A snapshot's clusters would be read as zlib, too.
    @Test(arguments: [false, true]) func zstdStaysWhereSomethingIs(_ onlyInSnapshot: Bool) throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "d.qcow2", "1M")
        try fixture.platter("io", "-c", "write -c -P 7 0 64k", "d.qcow2")
        try fixture.platter("bitmap", "--add", "d.qcow2", "b")
        if onlyInSnapshot {
            try fixture.platter("snapshot", "-c", "s", "d.qcow2")
            try fixture.platter("io", "-c", "write -P 8 0 64k", "d.qcow2")
        }
        let before = try fixture.read("d.qcow2")
        let outcome = try downgrade("d.qcow2")
        #expect(outcome.status == 1)
        #expect(
            outcome.error
                == "platter: Cannot downgrade an image with zstd compression type and existing compressed "
                + "clusters\n")
        #expect(try fixture.read("d.qcow2") == before, "a refusal changes nothing")
    }

    @Test(arguments: [
        ("extended_l2=on", "Cannot downgrade an image with incompatible features 0x10 set"),
        ("refcount_bits=8", "compat=0.10 requires refcount_bits=16"),
        ("data_file=x.raw", "Cannot downgrade an image with a data file"),
    ])
    func otherFeatures(_ option: String, _ message: String) throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", option, "d.qcow2", "1M")
        let outcome = try downgrade("d.qcow2")
        #expect(outcome.status == 1 && outcome.error == "platter: \(message)\n", "\(outcome.text)")
    }

    @Test func lazyRefcountsAndZeroClustersGo() throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "d.qcow2", "1M")
        try fixture.platter("io", "-c", "write -P 7 0 128k", "-c", "write -z 64k 64k", "d.qcow2")
        try fixture.platter("io", "-c", "write -P 7 0 64k", "-c", "flush", "-c", "sigraise 9", "d.qcow2")
        #expect(try downgrade("d.qcow2").status == 0)
        try expectVersion2("d.qcow2")
    }

    // MARK: Bitmaps that are damaged

    /// The table of the bitmap refers to the L1 table, to nothing that is counted, or into a cluster.
    @Test(arguments: [UInt64(0x30000), 0x8_0000, 0x200, 0x50000])
    func aDamagedBitmapIsRemoved(_ entry: UInt64) throws {
        try fixture.platter("create", "-q", "-f", "qcow2", "d.qcow2", "1M")
        try fixture.platter("io", "-c", "write -P 7 0 64k", "d.qcow2")
        try fixture.platter("bitmap", "--add", "d.qcow2", "b")
        var bytes = try fixture.read("d.qcow2")
        let directory = Int(Self.number(bytes, at: try #require(Self.extensionData(bytes)) + 16))
        let table = Int(Self.number(bytes, at: directory))
        for index in 0..<8 {
            bytes[table + index] = UInt8(truncatingIfNeeded: entry >> UInt64(56 - 8 * index))
        }
        try fixture.write("d.qcow2", bytes)
        let outcome = try fixture.platter("bitmap", "--remove", "d.qcow2", "b")
        #expect(outcome.status == 0, "\(outcome.text)")
        let info = try fixture.platter("info", "d.qcow2").output
        #expect(info.contains("corrupt: false") && !info.contains("name: b"), "\(info)")
        #expect(try fixture.platter("io", "-c", "read -P 7 0 64k", "d.qcow2").status == 0)
        #expect([0, 3].contains(try fixture.platter("check", "d.qcow2").status), "leaks at worst")
    }

    private static func number(_ bytes: [UInt8], at offset: Int) -> UInt64 {
        bytes[offset..<offset + 8].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Where the data of the bitmaps' header extension begin.
    private static func extensionData(_ bytes: [UInt8]) -> Int? {
        let magic: [UInt8] = [0x23, 0x85, 0x28, 0x75]
        return (0..<4096).first { Array(bytes[$0..<$0 + 4]) == magic }.map { $0 + 8 }
    }
}
