import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// What is refused because it would lose data, or because it is not there yet.
@Suite struct RefusalTests {
    private let fixture: CommandFixture
    private static let disk = [UInt8](repeating: 7, count: 4096)

    init() throws {
        fixture = try CommandFixture()
        try fixture.write("base.raw", Self.disk)
        try fixture.write("other.raw", Self.disk)
        try fixture.platter("create", "-q", "-f", "qcow2", "-b", "base.raw", "-B", "raw", "over.qcow2")
    }

    @Test(
        "no command empties a file that it reads, whatever it is called",
        arguments: [
            "create -f qcow2 -b ./base.raw -B raw base.raw",
            "create -f qcow2 -b over.qcow2 -B qcow2 base.raw",
            "dd if=base.raw of=./base.raw",
            "dd if=over.qcow2 of=base.raw",
            "convert over.qcow2 ./base.raw",
            "convert -n -O raw over.qcow2 base.raw",
            "convert -O qcow2 -B ./base.raw -F raw other.raw base.raw",
        ])
    func neverEmptiesWhatItReads(_ line: String) throws {
        let outcome = try fixture.shell("platter \(line)", linked: true)
        #expect(outcome.status == 1, "\(outcome.error)")
        #expect(try fixture.read("base.raw") == Self.disk)
    }

    /// A partition with LUKS2 on it is copied as it is, as qemu-img does it.
    @Test func whatNoDriverReadsIsRaw() throws {
        let bytes = [0x4C, 0x55, 0x4B, 0x53, 0xBA, 0xBE, 0, 2] + [UInt8](repeating: 3, count: 4088)
        try fixture.write("part.img", bytes)
        let info = try fixture.platter("info", "part.img")
        #expect(info.status == 0 && info.output.contains("file format: raw\n"), "\(info.text)")
        #expect(try fixture.platter("convert", "part.img", "copy").status == 0)
        #expect(try fixture.read("copy") == bytes)
        #expect(try fixture.platter("info", "-f", "luks", "part.img").status == 1)
    }

    @Test(
        "options that do not go together are refused by name",
        arguments: [
            ("extended_l2=on,compat=0.10", "Extended L2 entries are only supported with compatibility"),
            ("extended_l2=on,cluster_size=8k", "cluster sizes of at least 16384 bytes"),
            ("data_file_raw=on", "data-file-raw requires data-file"),
            ("data_file=x,compat=0.10", "External data files are only supported with compatibility"),
            ("data_file=new.qcow2", "is the image itself"),
            ("data_file=json:{}", "Unknown protocol 'json'"),
            ("data_file=", "No such file or directory"),
            (
                "data_file=x,data_file_raw=on,backing_file=base.raw,backing_fmt=raw",
                "Backing file and data-file-raw cannot be used at the same time"
            ),
        ])
    func optionsThatDoNotGoTogether(_ option: String, _ what: String) throws {
        try fixture.write("base.raw", Self.disk)
        let outcome = try fixture.platter("create", "-f", "qcow2", "-o", option, "new.qcow2", "1M")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("\(what)"), "\(outcome.error)")
        #expect(!fixture.exists("new.qcow2"))
    }

    @Test func aProtocolWithoutFileNames() throws {
        let outcome = try fixture.platter(
            "convert", "--image-opts", "driver=null-co,size=64k", "zeroes.raw")
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(try fixture.read("zeroes.raw") == [UInt8](repeating: 0, count: 65536))
    }
}
