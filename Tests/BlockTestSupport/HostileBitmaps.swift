/// Fields of a bitmap in a directory, sound as they begin, to be damaged.
struct BitmapFields {
    /// `nil`: a new table with ``table``.
    var tableOffset: UInt64?
    var tableEntries: UInt32 = 1
    var flags: UInt32 = 2
    var type: UInt8 = 1
    var granularityBits: UInt8 = 16
    var name = Array("one".utf8)
    var extra: [UInt8] = []
    var statedNameSize: UInt16?
    var statedExtraSize: UInt32?
    /// The table's entries; an entry of `nil` is a new cluster with two bits set.
    var table: [UInt64?] = [nil]

    fileprivate func serialised(tableOffset: UInt64) -> [UInt8] {
        func bytes(_ value: some FixedWidthInteger) -> [UInt8] { ImageBytes.big(value) }
        var entry = bytes(tableOffset) + bytes(tableEntries) + bytes(flags) + [type, granularityBits]
        entry += bytes(statedNameSize ?? UInt16(name.count)) + bytes(statedExtraSize ?? UInt32(extra.count))
        entry += extra + name
        return entry + [UInt8](repeating: 0, count: (8 - entry.count % 8) % 8)
    }
}

extension Qcow2Bytes {
    /// Adds bitmaps with tables and data, which the header marks as up to date if `areCurrent`. Returns the
    /// directory's offset.
    @discardableResult
    mutating func addBitmaps(
        _ list: [BitmapFields], count: UInt32? = nil, sizeBy difference: Int = 0, areCurrent: Bool = true
    ) -> Int {
        var directory: [UInt8] = []
        for bitmap in list {
            var table: [UInt8] = []
            for entry in bitmap.table {
                let value = entry ?? UInt64(addCluster([0x05]))
                table += ImageBytes.big(value)
            }
            let offset = bitmap.tableOffset ?? UInt64(addCluster(table))
            directory += bitmap.serialised(tableOffset: offset)
        }
        let place = addCluster(directory)
        let size = UInt64(directory.count + difference)
        setExtensions([HostileCase.bitmaps(count ?? UInt32(list.count), size: size, offset: UInt64(place))])
        put64(areCurrent ? Autoclear.bitmaps : 0, at: Field.autoclear)
        return place
    }
}

/// Damage to bitmaps.
extension HostileCase {
    private static func bitmap(
        _ name: String, _ finding: Finding, repairable: Bool = true, _ change: (inout BitmapFields) -> Void
    ) -> HostileCase {
        opens("bitmap: \(name)", finding, repairable: repairable) { image in
            var fields = BitmapFields()
            change(&fields)
            image.addBitmaps([fields])
        }
    }

    private static let soundBitmaps: [HostileCase] = [
        bitmap("sound", .nothing) { _ in },
        bitmap("in use", .nothing) { $0.flags = 3 },
        bitmap("in use, of another disk's size", .nothing) {
            ($0.flags, $0.tableEntries, $0.table) = (1, 2, [nil, 0])
        },
        bitmap("all ones", .nothing) { $0.table = [1] },
        bitmap("a name that is no UTF-8", .nothing) { $0.name = [0xff, 0xc0, 0x80, 0xfe] },
        bitmap("a name with a zero byte and a line feed", .nothing) { $0.name = [0x61, 0, 10, 0x62] },
        bitmap("a name of 1023 bytes", .nothing) { $0.name = [UInt8](repeating: 0x78, count: 1023) },
        bitmap("unknown data", .nothing) { $0.extra = [1, 2, 3] },
        bitmap("unknown data that may be ignored", .nothing) { ($0.extra, $0.flags) = ([1, 2, 3], 6) },
        bitmap("a granularity of a byte", .nothing) {
            ($0.granularityBits, $0.tableEntries) = (0, 2)
            $0.table = [nil, nil]
        },
        bitmap("a granularity of 2^63", .nothing) { $0.granularityBits = 63 },
    ]

    private static let badEntries: [HostileCase] = [
        bitmap("reserved flags", .corruption) { $0.flags = 8 },
        bitmap("all flags", .corruption) { $0.flags = .max },
        bitmap("type 0", .corruption) { $0.type = 0 },
        bitmap("type 255", .corruption) { $0.type = 255 },
        bitmap("a granularity of 2^64", .corruption) { $0.granularityBits = 64 },
        bitmap("a granularity of 2^255", .corruption) { $0.granularityBits = 255 },
        bitmap("no name", .corruption) { $0.name = [] },
        bitmap("a name of 1024 bytes", .corruption) { $0.name = [UInt8](repeating: 0x78, count: 1024) },
        bitmap("a name longer than the directory", .corruption) { $0.statedNameSize = .max },
        bitmap("data longer than the directory", .corruption) { $0.statedExtraSize = .max },
        bitmap("no table entries", .corruption) { $0.tableEntries = 0 },
        bitmap("too many table entries", .corruption) { $0.tableEntries = .max },
        bitmap("a table for a larger disk", .corruption) { ($0.tableEntries, $0.table) = (2, [nil, nil]) },
        bitmap("a table at 0", .corruption) { $0.tableOffset = 0 },
        bitmap("a table that is not aligned", .corruption) { $0.tableOffset = 0x30200 },
        bitmap("a table behind the file", .corruption) { $0.tableOffset = 1 << 40 },
        bitmap("a table at 2^63", .corruption) { $0.tableOffset = 1 << 63 },
        bitmap("a table over the L1 table", .corruption) { $0.tableOffset = 0x30000 },
        bitmap("a table over the L2 table", .corruption) { $0.tableOffset = 0x40000 },
        bitmap("a table over the refcount block", .corruption) { $0.tableOffset = 0x20000 },
        bitmap("reserved bits in the table", .corruption) { $0.table = [0x70002] },
        bitmap("reserved bits without data", .corruption) { $0.table = [1 << 63] },
        bitmap("data that is not aligned", .corruption) { $0.table = [0x50200] },
        bitmap("data behind the file", .corruption) { $0.table = [1 << 40] },
        bitmap("data over the guest's", .corruption) { $0.table = [0x50000] },
        bitmap("data over the L2 table", .corruption) { $0.table = [0x40000] },
        bitmap("data over the L1 table", .corruption) { $0.table = [0x30000] },
    ]

    /// 512 MiB of bits for each of two bitmaps, by tables that say the same cluster 8192 times.
    public static let hugeBitmap = opens(
        "bitmaps: tables that repeat one cluster", .corruption, repairable: true,
        Qcow2Bytes(virtualSize: 1 << 41)
    ) { image in
        let bits = UInt64(image.addCluster([UInt8](repeating: 0x55, count: image.clusterSize)))
        let table = [UInt64?](repeating: bits, count: 8192)
        var fields = BitmapFields(tableEntries: 8192, granularityBits: 9, table: table)
        let first = fields
        fields.name = Array("two".utf8)
        image.addBitmaps([first, fields])
    }

    static let bitmaps: [HostileCase] =
        soundBitmaps + badEntries + [
            opens("bitmaps: two of one name", .corruption, repairable: true) {
                $0.addBitmaps([BitmapFields(), BitmapFields(tableOffset: nil, flags: 3)])
            },
            opens("bitmaps: two with one table", .corruption, repairable: true) {
                let table = UInt64($0.addCluster())
                let other = Array("two".utf8)
                $0.addBitmaps([
                    BitmapFields(tableOffset: table), BitmapFields(tableOffset: table, name: other),
                ])
            },
            hugeBitmap,
            opens("bitmaps: more than are there", .corruption, repairable: true) {
                $0.addBitmaps([BitmapFields()], count: 2)
            },
            opens("bitmaps: fewer than are there", .corruption, repairable: true) {
                $0.addBitmaps([BitmapFields(), BitmapFields(name: [0x78])], count: 1)
            },
            opens("bitmaps: a directory that is too short", .corruption, repairable: true) {
                $0.addBitmaps([BitmapFields()], sizeBy: -8)
            },
            opens("bitmaps: a directory behind the file", .corruption, repairable: true) {
                $0.addBitmaps([BitmapFields()], sizeBy: 1 << 20)
            },
            opens("bitmaps: a directory over the guest's data", .corruption, repairable: true) { image in
                let place = image.addBitmaps([BitmapFields()])
                image.write(image.bytes.read(at: place, count: 32), at: image.data)
                image.setExtensions([bitmaps(1, size: 32, offset: UInt64(image.data))])
            },
            opens("bitmaps: a directory over the L2 table", .corruption, repairable: true) { image in
                image.addBitmaps([BitmapFields()])
                image.setExtensions([bitmaps(1, size: 32, offset: UInt64(image.l2))])
            },
            opens("bitmaps: out of date", .leaks, repairable: true) {
                $0.addBitmaps([BitmapFields()], areCurrent: false)
            },
            opens("bitmaps: out of date, and where they were is the guest's", .leaks, repairable: true) {
                image in
                image.addBitmaps([BitmapFields()], areCurrent: false)
                image.setExtensions([bitmaps(1, size: 32, offset: UInt64(image.data))])
            },
        ]
}
