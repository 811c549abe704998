import BlockTestSupport
import Testing

/// What `info` tells of each format that qemu-img tells nothing of, for people and as JSON.
@Suite struct FormatInfoTests {
    static let uuid = #"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"#

    struct Case: Sendable, CustomStringConvertible {
        var format: String
        var options: [String] = []
        /// Patterns of the fields in order, as people see them.
        var fields: [String]
        var description: String { ([format] + options).joined(separator: " ") }
    }

    static let cases = [
        Case(format: "vpc", fields: ["subformat: dynamic", "creator: qemu", "uuid: \(uuid)"]),
        Case(
            format: "vpc", options: ["-o", "subformat=fixed,force_size=on"],
            fields: ["subformat: fixed", "creator: qem2", "uuid: \(uuid)"]),
        Case(
            format: "vhdx",
            fields: [
                "subformat: dynamic", "log size: 1048576", "logical sector size: 512",
                "physical sector size: [0-9]+", "disk id: \(uuid)",
            ]),
        Case(
            format: "vhdx", options: ["-o", "subformat=fixed,log_size=2M"],
            fields: ["subformat: fixed", "log size: 2097152"]),
        Case(format: "vdi", fields: ["subformat: dynamic", "uuid: \(uuid)"]),
        Case(
            format: "vdi", options: ["-o", "static=on"],
            fields: ["subformat: static", "uuid: \(uuid)"]),
        Case(format: "qed", options: ["-o", "table_size=2"], fields: ["table size: 2"]),
        Case(format: "qcow", fields: ["l2 entries: [0-9]+", "encryption: none"]),
        Case(format: "parallels", fields: ["magic: WithouFreSpacExt"]),
    ]

    @Test(arguments: cases) func tellsOfTheFormat(_ one: Case) throws {
        let fixture = try CommandFixture()
        let words = one.options.joined(separator: " ")
        #expect(
            try fixture.shell("platter create -q -f \(one.format) \(words) a 4M", linked: true).status == 0)
        let lines = one.fields.map { "    \($0)\n" }.joined()
        let text = try fixture.platter("info", "-f", one.format, "a").output
        let pattern = try Regex("Format specific information:\n\(lines)")
        #expect(text.contains(pattern), "\(text)")
        let json = try fixture.platter("info", "-f", one.format, "--output", "json", "a").output
        #expect(json.contains("\"type\": \"\(one.format)\""))
        for field in one.fields {
            let parts = field.split(separator: ":", maxSplits: 1)
            let key = parts[0].replacing(" ", with: "-")
            #expect(json.contains(try Regex("\"\(key)\": \"?\(parts[1].dropFirst())\"?")), "\(key): \(json)")
        }
    }

    @Test func tellsOfParents() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "vhdx", "b.vhdx", "4M")
        try fixture.platter("create", "-q", "-f", "vhdx", "-b", "b.vhdx", "-B", "vhdx", "o.vhdx")
        #expect(try fixture.platter("info", "o.vhdx").output.contains("    subformat: differencing\n"))
        try fixture.platter("create", "-q", "-f", "vpc", "b.vhd", "4M")
        try fixture.platter("create", "-q", "-f", "vpc", "-b", "b.vhd", "-B", "vpc", "o.vhd")
        let text = try fixture.platter("info", "o.vhd").output
        #expect(
            text.contains(try Regex("    subformat: differencing\n(.*\n)*    parent uuid: \(Self.uuid)\n")))
    }

    /// Of an external data file, as of preallocated clusters, the holes are told.
    @Test func holesOfADataFileReadAsZeroes() throws {
        let fixture = try CommandFixture()
        try fixture.platter("create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "a", "1M")
        let map = try fixture.platter("map", "--output", "json", "a").output
        #expect(map.contains("\"zero\": true, \"data\": true"), "\(map)")
        let measured = try fixture.platter("measure", "-O", "qcow2", "a").output
        #expect(measured.contains("required size: 327680\n"), "\(measured)")
    }
}
