import BlockCore

/// Refuses small files that map a huge disk: with two levels of tables, a million entries of the upper one
/// can refer to the same lower table, and a walk through the disk would take days.
///
/// A sound image has no two entries for one lower table; a repaired image has a few.
struct TableRepeats {
    /// The largest number of lower entries that are mapped more than once.
    private static let maximumEntries = 1 << 24
    /// The largest number of upper entries that are compared: 32 MiB of memory. More distinct lower tables
    /// need a large file anyway.
    private static let maximumPlaces = 8 << 20

    private var places: [UInt32] = []

    /// Reserves memory for `capacity` places, within the limit.
    init(capacity: Int) { places.reserveCapacity(min(capacity, Self.maximumPlaces)) }

    /// Notes the place of the lower table that an upper entry refers to, in the format's unit of space; 0 for
    /// none.
    mutating func note(_ place: UInt64) {
        guard place != 0, places.count < Self.maximumPlaces else { return }
        places.append(UInt32(truncatingIfNeeded: place))
    }

    /// - Parameters:
    ///   - entriesPerTable: the number of entries of a lower table, or of its parts where parts can be
    ///     shared.
    ///   - path: the file's name in the message.
    /// - Throws: `limit` when too much of the disk is mapped by repeated tables.
    /// - Complexity: O(n log n); O(n) when the places ascend.
    consuming func check(entriesPerTable: Int, path: String) throws(BlockError) {
        if isAscending { return }
        places.sort()
        var repeats = 0
        for index in places.indices.dropFirst() where places[index] == places[index - 1] { repeats += 1 }
        let (entries, overflow) = repeats.multipliedReportingOverflow(by: entriesPerTable)
        guard overflow || entries > Self.maximumEntries else { return }
        throw BlockError(
            .limit,
            "The image maps its disk by tables that are used again, \(repeats) times, which takes too long "
                + "to look at", path: path, hint: "Only 'info' and 'check' look at such an image.")
    }

    private var isAscending: Bool {
        for index in places.indices.dropFirst() where places[index] <= places[index - 1] { return false }
        return true
    }

    /// Compares the entries of an upper table in a file, of 8 bytes each; holes are skipped.
    ///
    /// - Parameters:
    ///   - unit: the divisor of the offsets in the entries, in bytes.
    ///   - entry: reads the entry at an offset in the given bytes.
    /// - Throws: `limit` when too much of the disk is mapped by repeated tables; `io`.
    static func check(
        _ file: BlockNode, at offset: Int, count: Int, unit: Int, entriesPerTable: Int,
        entry: (RawSpan, Int) -> UInt64
    ) throws(BlockError) {
        var repeats = TableRepeats(capacity: 0)
        var position = offset
        let end = min(offset + count * 8, try file.length())
        while position < end {
            let run = try file.status(at: position, limit: min(end - position, .mib(1)))
            // A run may end inside an entry.
            let length = min(end - position, max(8, run.length.roundedDown(to: 8)))
            if !run.isZero {
                let bytes = try file.readBytes(at: position, count: length)
                for step in stride(from: 0, through: bytes.count - 8, by: 8) {
                    repeats.note(entry(bytes.span.bytes, step) / UInt64(unit))
                }
            }
            position += length
        }
        try repeats.check(entriesPerTable: entriesPerTable, path: file.filename)
    }
}
