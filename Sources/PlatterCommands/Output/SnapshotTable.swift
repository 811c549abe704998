import BlockCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The list of an image's snapshots, for people.
enum SnapshotTable {
    /// A title, a row of headings, and one row for each snapshot.
    static func text(_ snapshots: [SnapshotInfo]) -> String {
        let heading = row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])
        return "Snapshot list:\n" + heading + snapshots.map(row).joined()
    }

    private static func row(_ snapshot: SnapshotInfo) -> String {
        row([
            PrintableText.shown(snapshot.id), PrintableText.shown(snapshot.name),
            HumanSize.text(snapshot.vmStateSizeBytes),
            localDate(snapshot.dateSeconds), clock(snapshot.vmClockNanoseconds),
            snapshot.instructionCount.map { String($0) } ?? "",
        ])
    }

    /// The widths of the columns; the first two are aligned at their left.
    private static let widths = [7, 16, 8, 19, 15, 10]

    private static func row(_ cells: [String]) -> String {
        let columns = zip(cells, widths).enumerated().map { index, column in
            index < 2 ? column.0.padded(right: column.1) : column.0.padded(left: column.1)
        }
        return columns.joined(separator: " ") + "\n"
    }

    /// Hours, minutes, seconds and thousandths.
    private static func clock(_ nanoseconds: Int) -> String {
        let seconds = nanoseconds / 1_000_000_000
        let parts = [(seconds / 3600, 4), (seconds / 60 % 60, 2), (seconds % 60, 2)]
        return parts.map { zeroPadded($0, $1) }.joined(separator: ":") + "."
            + zeroPadded(nanoseconds / 1_000_000 % 1000, 3)
    }

    /// Date and time in the local time zone.
    private static func localDate(_ seconds: Int) -> String {
        var time = time_t(seconds)
        var parts = tm()
        guard localtime_r(&time, &parts) != nil else { return String(seconds) }
        let date = [(Int(parts.tm_year) + 1900, 4), (Int(parts.tm_mon) + 1, 2), (Int(parts.tm_mday), 2)]
        let clock = [Int(parts.tm_hour), Int(parts.tm_min), Int(parts.tm_sec)]
        return date.map { zeroPadded($0, $1) }.joined(separator: "-") + " "
            + clock.map { zeroPadded($0, 2) }.joined(separator: ":")
    }

    private static func zeroPadded(_ number: Int, _ digits: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
}

extension SnapshotInfo {
    /// The fields in qemu-img's order.
    var json: InfoValue {
        var fields: [InfoField] = []
        if let instructionCount { fields.append(InfoField("icount", .number(instructionCount))) }
        fields += [
            InfoField("vm-clock-nsec", .number(vmClockNanoseconds % 1_000_000_000)),
            InfoField("name", .text(name)),
            InfoField("date-sec", .number(dateSeconds)),
            InfoField("date-nsec", .number(dateNanoseconds)),
            InfoField("vm-clock-sec", .number(vmClockNanoseconds / 1_000_000_000)),
            InfoField("id", .text(id)),
            InfoField("vm-state-size", .number(vmStateSizeBytes)),
        ]
        return .object(fields)
    }
}
