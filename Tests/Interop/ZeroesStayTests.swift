import BlockTestSupport
import Foundation
import Testing

/// Zeroes that were written are zeroes of the image itself: no backing file that it gets later shows through.
/// qemu-img judges.
@Suite(.enabled(if: Peer.isExpected)) struct ZeroesStayTests {
    let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try must("truncate -s 4M zero.raw; head -c 4M /dev/zero | tr '\\0' '\\11' > nines.raw")
    }

    @discardableResult
    private func must(_ lines: String) throws -> String {
        let outcome = try fixture.shell("set -e\n" + lines, linked: true)
        try #require(outcome.status == 0, "\(lines): \(outcome.text)")
        return outcome.output
    }

    /// Puts `d` over an image of nines: `want.raw` is what it has to read as.
    private func judge(_ format: String) throws {
        try must("qemu-img rebase -u -b base -F \(format) d")
        let judge = format == "vmdk" ? CommandFixture.platter.path : "/usr/bin/qemu-img"
        let same = try fixture.tool(judge, "compare", "-f", format, "-F", "raw", "d", "want.raw")
        #expect(same.status == 0, "\(same.text)")
    }

    static let ways = [
        "qemu-img convert -n -f raw -O FMT zero.raw d", "qemu-io -f FMT -c 'write -z 0 4M' d",
        "qemu-io -f FMT -c 'write -z -u 0 4M' d", "qemu-io -f FMT -c 'discard 0 4M' d",
        "qemu-img convert -n -W -m 4 -f raw -O FMT zero.raw d",
    ]
    static let formats = [
        ("qcow2", ""), ("qcow2", "cluster_size=4k"), ("qcow2", "extended_l2=on"), ("qed", ""),
        ("vmdk", "zeroed_grain=on"), ("qcow2", "data_file=d.data"),
    ]

    private func make(_ image: (format: String, options: String)) throws {
        let options = image.options.isEmpty ? "" : "-o \(image.options)"
        try must(
            """
            qemu-img create -q -f \(image.format) \(options) d 4M
            qemu-img convert -f raw -O \(image.format) nines.raw base
            """)
    }

    @Test("in an image without a backing file", arguments: formats, ways)
    func flat(image: (format: String, options: String), way: String) throws {
        try make(image)
        try must(way.replacing("FMT", with: image.format) + "; cp zero.raw want.raw")
        try judge(image.format)
    }

    @Test("parts of clusters too", arguments: formats)
    func parts(image: (format: String, options: String)) throws {
        try make(image)
        let io = "qemu-io -f \(image.format)"
        try must("\(io) -c 'write -z 1000k 512' -c 'write -z -u 2047k 2k' -c 'write -P 5 3M 512' d")
        try must("\(io) -c 'write -z 3080k 2k' d; qemu-img rebase -u -b base -F \(image.format) d")
        let reads = ["0 1000k 512", "0 2047k 2k", "5 3M 512", "0 3080k 2k", "9 2M+128k 4k", "9 0 4k"]
        for read in reads.map({ $0.replacing("2M+128k", with: "2176k") }) {
            #expect(try !must("\(io) -r -c 'read -P \(read)' d").contains("failed"), "\(read)")
        }
    }

    @Test("over a backing file that reads as zeroes itself", arguments: [""] + ["extended_l2=on"])
    func overZeroes(options: String) throws {
        try make(("qcow2", options))
        try must(
            """
            mv d below; qemu-img create -q -f qcow2 -b below -F qcow2 d
            qemu-img convert -n -f raw -O qcow2 zero.raw d; cp zero.raw want.raw
            """)
        try judge("qcow2")
    }

    @Test("committed and streamed zeroes")
    func moved() throws {
        try make(("qcow2", ""))
        try must(
            """
            qemu-img create -q -f qcow2 -b d -F qcow2 top; qemu-io -c 'write -z 1M 1M' top
            dd if=zero.raw of=nines.raw bs=1M count=1 seek=1 conv=notrunc status=none; mv nines.raw want.raw
            cp d below; cp top up; qemu-img commit -q top
            """)
        try judge("qcow2")
        try must("qemu-img rebase -u -b below -F qcow2 up; platter create -q -f qcow2 -b up -F qcow2 d")
        try must("platter stream d")
        try judge("qcow2")
    }

    @Test("a new target leaves them unallocated, and -S 0 stores them")
    func targets() throws {
        try must("qemu-img convert -f raw -O qcow2 zero.raw new; qemu-img create -q -f qcow2 old 4M")
        #expect(try must("platter map --output=json new").contains(#""present": false"#))
        try must("qemu-img convert -n -S 0 -f raw -O qcow2 zero.raw old")
        let map = try must("/usr/bin/qemu-img map --output=json old")
        #expect(!map.contains(#""data": false"#) && !map.contains(#""zero": true"#), "\(map)")
    }
}
