import BlockCore
import Testing

@testable import PlatterCommands

@Suite struct OutputTests {
    /// Taken from `qemu-img info` 7.2 on files of these sizes.
    @Test(arguments: [
        (0, "0 B"),
        (512, "512 B"),
        (511488, "500 KiB"),
        (523776, "512 KiB"),
        (1024000, "0.977 MiB"),
        (1023488, "1e+03 KiB"),
        (1022976, "999 KiB"),
        (12800, "12.5 KiB"),
        (6320640, "6.03 MiB"),
        (333824, "326 KiB"),
        (67764224, "64.6 MiB"),
        (3411968, "3.25 MiB"),
        (1048576, "1 MiB"),
        (1048064, "1 MiB"),
        (1048576000, "0.977 GiB"),
        (1048575488, "1e+03 MiB"),
        (1047527424, "999 MiB"),
        (1048051712, "1e+03 MiB"),
        (1073741824, "1 GiB"),
        (10737418240, "10 GiB"),
        (1099511627776, "1 TiB"),
        (1073741824000, "0.977 TiB"),
        (1073741823488, "1e+03 GiB"),
        (4398046511104, "4 TiB"),
        (10995116277760, "10 TiB"),
        (1536, "1.5 KiB"),
        (1024, "1 KiB"),
        (10234880, "9.76 MiB"),
        (10484736, "10 MiB"),
        (104805376, "100 MiB"),
        (1047552, "0.999 MiB"),
        (18944, "18.5 KiB"),
        (220524940800, "205 GiB"),
        (2168334336, "2.02 GiB"),
        (61952, "60.5 KiB"),
        (51067392, "48.7 MiB"),
        (15846400, "15.1 MiB"),
        (815217664, "777 MiB"),
        (14427984896, "13.4 GiB"),
        (8192, "8 KiB"),
        (10191360, "9.72 MiB"),
        (26359335936, "24.5 GiB"),
        (8936960, "8.52 MiB"),
        (13775272448, "12.8 GiB"),
        (155136, "152 KiB"),
        (14848, "14.5 KiB"),
        (64512, "63 KiB"),
        (1162674688, "1.08 GiB"),
    ])
    func humanSizes(_ bytes: Int, _ text: String) { #expect(HumanSize.text(bytes) == text) }

    /// Ties and all others are rounded as `printf` does.
    @Test func threeDigitsAreThoseOfC() {
        var values = (0..<300_000).map { Double($0) / 256 } + [0.5, 998.5, 999, 1.1, 3.14159, 99.95, 1e300]
        values += (0..<50_000).map { Double($0 * 7919 + 1_048_576) / 1_048_576 }
        for value in values {
            let text = HumanSize.threeDigits(value)
            guard text != HumanSize.formatted("%.3g", value) else { continue }
            Issue.record("\(value) is no \(text)")
        }
    }

    @Test func percentagesHaveTwoDigits() {
        #expect(HumanSize.percent(66.666) == "66.67")
        #expect(HumanSize.percent(0) == "0.00")
        #expect(HumanSize.percent(100) == "100.00")
    }

    @Test func jsonHasOneElementALine() {
        let value = InfoValue.object([
            InfoField("a", .list([])), InfoField("b", .object([])),
            InfoField("c", .list([.number(1), .flag(true)])), InfoField("d", .text("x")),
        ])
        let expected = """
            {
                "a": [
                ],
                "b": {
                },
                "c": [
                    1,
                    true
                ],
                "d": "x"
            }

            """
        #expect(JSONWriter.text(value) == expected)
    }

    @Test func jsonStringsAreASCII() {
        #expect(
            JSONWriter.quoted("a\"\\/\n\t\u{1}é€😀\u{7F}")
                == #""a\"\\/\n\t\u0001\u00E9\u20AC\uD83D\uDE00\u007F""#)
    }

    @Test func snapshotTableHasFixedColumns() {
        let text = SnapshotTable.text([
            SnapshotInfo(
                id: "1", name: "one", vmStateSizeBytes: 0, vmClockNanoseconds: 3_723_045_000_000,
                instructionCount: 0)
        ])
        let lines = text.split(separator: "\n")
        #expect(lines[0] == "Snapshot list:")
        #expect(
            lines[1] == "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT")
        #expect(lines[2].hasPrefix("1       one                   0 B 1970-01-01 "))
        #expect(lines[2].hasSuffix("  0001:02:03.045          0"))
    }

    @Test func checkReportNamesOnlyWhatThereIs() {
        var result = CheckResult()
        #expect(CheckReport.summary(result) == "No errors were found on the image.\n")
        #expect(CheckReport.status(result) == 0)
        result.leaks = 2
        #expect(
            CheckReport.summary(result)
                == "\n2 leaked clusters were found on the image.\n"
                + "This means waste of disk space, but no harm to data.\n")
        #expect(CheckReport.status(result) == 3)
        result.checkErrors = 1
        #expect(CheckReport.status(result) == 3)
        result.leaks = 0
        #expect(CheckReport.status(result) == 1)
        #expect(CheckReport.summary(result) == "\n1 internal errors have occurred during the check.\n")
        result.corruptions = 1
        #expect(CheckReport.status(result) == 2)
    }
}
