/// Where the fields of a sound qcow2 image lie, found by the specification, and how to damage them.
///
/// Nothing of the driver's own is used. Offsets and widths are in bytes.
public struct Qcow2Fields: Sendable {
    public struct Field: Sendable, CustomStringConvertible {
        public var kind: String
        public var offset: Int
        public var width: Int
        public var description: String { "\(kind) at \(offset)" }
    }

    private let bytes: SparseBytes
    private let clusterBits: Int
    private let refcountBits: Int
    /// Extended L2 entries have twice the size: the cluster, then its subclusters.
    private let l2EntryBytes: Int
    public private(set) var byKind: [String: [Field]] = [:]

    public init(_ bytes: SparseBytes) {
        self.bytes = bytes
        clusterBits = bytes.big(at: Header.clusterBits, bytes: 4)
        let isVersion2 = bytes.big(at: Header.version, bytes: 4) == 2
        refcountBits = isVersion2 ? 16 : 1 << bytes.big(at: Header.refcountOrder, bytes: 4)
        let isExtended = !isVersion2 && bytes.hasIncompatible(Qcow2Bytes.Incompatible.extendedL2)
        l2EntryBytes = isExtended ? 16 : 8
        for (offset, width) in Self.commonFields + (isVersion2 ? [] : Self.version3Fields) {
            add("header", offset, width)
        }
        addRefcounts()
        addTree("active", at: number(Header.l1Offset, 8), entries: number(Header.l1Entries, 4))
        addSnapshots()
        if !isVersion2 { addExtensions() }
    }

    private typealias Header = Qcow2Bytes.Field
    private typealias Snapshot = Qcow2Bytes.Snapshot
    private typealias Extension = Qcow2Bytes.Extension
    private typealias Bitmap = Qcow2Bytes.Bitmap

    /// Offsets and widths. The fields that decide how others are read stay sound.
    private static let commonFields = [
        (Header.backingOffset, 8), (Header.backingSize, 4), (Header.size, 8), (Header.crypt, 4),
        (Header.l1Entries, 4), (Header.l1Offset, 8), (Header.refcountOffset, 8),
        (Header.refcountClusters, 4), (Header.snapshotCount, 4), (Header.snapshotsOffset, 8),
    ]
    private static let version3Fields = [
        (Header.incompatible, 8), (Header.compatible, 8), (Header.autoclear, 8), (Header.refcountOrder, 4),
        (Header.headerLength, 4),
    ]

    private func number(_ offset: Int, _ width: Int) -> Int { bytes.big(at: offset, bytes: width) }

    private func offset(_ entry: Int) -> Int { entry & Qcow2Bytes.offsetMask }

    private mutating func add(_ kind: String, _ offset: Int, _ width: Int) {
        byKind[kind, default: []].append(Field(kind: kind, offset: offset, width: width))
    }

    private mutating func addRefcounts() {
        let perBlock = (8 << clusterBits) / refcountBits
        let clusters = (bytes.count >> clusterBits) + 1
        for index in 0...clusters / perBlock {
            let entry = number(Header.refcountOffset, 8) + index * 8
            add("refcount table", entry, 8)
            let block = number(entry, 8)
            guard block != 0 else { continue }
            for cluster in 0..<min(perBlock, clusters - index * perBlock) {
                add("refcount", block + cluster * refcountBits / 8, max(1, refcountBits / 8))
            }
        }
    }

    private mutating func addTree(_ name: String, at l1: Int, entries: Int) {
        for index in 0..<entries {
            add("\(name) L1", l1 + index * 8, 8)
            let table = offset(number(l1 + index * 8, 8))
            guard table != 0 else { continue }
            for entry in 0..<(1 << clusterBits) / l2EntryBytes {
                let place = table + entry * l2EntryBytes
                let subclusters = l2EntryBytes == 16 ? number(place + 8, 8) : 0
                guard number(place, 8) != 0 || subclusters != 0 || entry == 7 else { continue }
                add("\(name) L2", place, 8)
                if l2EntryBytes == 16 { add("\(name) subclusters", place + 8, 8) }
            }
        }
    }

    private mutating func addSnapshots() {
        var entry = number(Header.snapshotsOffset, 8)
        for _ in 0..<number(Header.snapshotCount, 4) {
            for (offset, width) in [
                (Snapshot.l1Offset, 8), (Snapshot.l1Entries, 4), (Snapshot.idSize, 2),
                (Snapshot.nameSize, 2), (Snapshot.stateSize, 4), (Snapshot.extraSize, 4),
                (Snapshot.stateSize64, 8), (Snapshot.diskSize, 8),
            ] {
                add("snapshot", entry + offset, width)
            }
            addTree(
                "snapshot", at: number(entry + Snapshot.l1Offset, 8),
                entries: number(entry + Snapshot.l1Entries, 4))
            let names = number(entry + Snapshot.idSize, 2) + number(entry + Snapshot.nameSize, 2)
            let size = Snapshot.extra + number(entry + Snapshot.extraSize, 4) + names
            entry += (size + 7) / 8 * 8
        }
    }

    /// Adds the fields of the extensions for bitmaps and encryption.
    private mutating func addExtensions() {
        var place = number(Header.headerLength, 4)
        while number(place, 4) != 0, place < 1 << clusterBits {
            let data = place + Extension.data
            switch UInt32(truncatingIfNeeded: number(place, 4)) {
            case Qcow2Bytes.ExtensionType.bitmaps: addBitmaps(data)
            case Qcow2Bytes.ExtensionType.encryption:
                for field in [0, 8] { add("encryption header", data + field, 8) }
            default: break
            }
            place = data + (number(place + Extension.length, 4) + 7) / 8 * 8
        }
    }

    private mutating func addBitmaps(_ place: Int) {
        for (offset, width) in [
            (Extension.bitmapCount, 4), (Extension.directorySize, 8), (Extension.directoryOffset, 8),
        ] {
            add("bitmaps", place + offset, width)
        }
        var entry = number(place + Extension.directoryOffset, 8)
        for _ in 0..<number(place + Extension.bitmapCount, 4) {
            // Other types, granularities and extra data are no damage, though QEMU opens no image with them.
            for (offset, width) in [
                (Bitmap.tableOffset, 8), (Bitmap.tableEntries, 4), (Bitmap.flags, 4), (Bitmap.nameSize, 2),
            ] {
                add("bitmap entry", entry + offset, width)
            }
            let table = number(entry + Bitmap.tableOffset, 8)
            for index in 0..<number(entry + Bitmap.tableEntries, 4) {
                add("bitmap table", table + index * 8, 8)
            }
            let rest = number(entry + Bitmap.extraSize, 4) + number(entry + Bitmap.nameSize, 2)
            entry += (Bitmap.extra + rest + 7) / 8 * 8
        }
    }

    /// Damages one field, and returns it.
    public func damage(_ image: inout SparseBytes, _ random: inout SeededRandom) -> Field {
        let kinds = byKind.keys.sorted()
        let fields = byKind[kinds[random.number(in: 0..<kinds.count)]] ?? []
        let field = fields[random.number(in: 0..<fields.count)]
        let old = image.read(at: field.offset, count: field.width)
        var new = old
        switch random.number(in: 0..<7) {
        case 0: new = [UInt8](repeating: 0, count: field.width)
        case 1: new = [UInt8](repeating: 0xff, count: field.width)
        case 2: new = random.bytes(field.width)
        case 3: new[field.width - 1] &+= UInt8(1 + random.number(in: 0..<255))
        case 4:
            // Another field's value: two references to one cluster.
            let other = fields[random.number(in: 0..<fields.count)]
            if other.width == field.width { new = image.read(at: other.offset, count: other.width) }
        case 5 where field.width == 8:
            let cluster = UInt64(random.number(in: 0..<(image.count >> clusterBits) + 2)) << clusterBits
            let flags = UInt64(random.number(in: 0..<2)) << 63
            new = ImageBytes.big(cluster | flags)
        default:
            let bit = random.number(in: 0..<field.width * 8)
            new[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        image.write(new, at: field.offset)
        return field
    }
}
