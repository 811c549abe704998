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
        let head = bytes.read(at: 0, count: 112)
        clusterBits = Int(head[23])
        let isVersion2 = head[7] == 2
        refcountBits = isVersion2 ? 16 : 1 << Int(head[99])
        l2EntryBytes = !isVersion2 && head[79] & 16 != 0 ? 16 : 8
        for (offset, width) in [
            (8, 8), (16, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4),
        ] {
            add("header", offset, width)
        }
        add("header", 64, 8)
        for (offset, width) in [(72, 8), (80, 8), (88, 8), (96, 4), (100, 4)] where !isVersion2 {
            add("header", offset, width)
        }
        addRefcounts()
        addTree("active", at: number(40, 8), entries: number(36, 4))
        addSnapshots()
        if !isVersion2 { addExtensions() }
    }

    private func number(_ offset: Int, _ width: Int) -> Int {
        Int(
            truncatingIfNeeded: bytes.read(at: offset, count: width).reduce(UInt64(0)) {
                $0 << 8 | UInt64($1)
            })
    }

    private func offset(_ entry: Int) -> Int { entry & 0x00ff_ffff_ffff_fe00 }

    private mutating func add(_ kind: String, _ offset: Int, _ width: Int) {
        byKind[kind, default: []].append(Field(kind: kind, offset: offset, width: width))
    }

    private mutating func addRefcounts() {
        let perBlock = (8 << clusterBits) / refcountBits
        let clusters = (bytes.count >> clusterBits) + 1
        for index in 0...clusters / perBlock {
            let entry = number(48, 8) + index * 8
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
        var entry = number(64, 8)
        for _ in 0..<number(60, 4) {
            for (offset, width) in [(0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4), (40, 8), (48, 8)] {
                add("snapshot", entry + offset, width)
            }
            addTree("snapshot", at: number(entry, 8), entries: number(entry + 8, 4))
            let size = 40 + number(entry + 36, 4) + number(entry + 12, 2) + number(entry + 14, 2)
            entry += (size + 7) / 8 * 8
        }
    }

    /// What header extensions tell of bitmaps and encryption.
    private mutating func addExtensions() {
        var place = number(100, 4)
        while number(place, 4) != 0, place < 1 << clusterBits {
            switch number(place, 4) {
            case 0x2385_2875: addBitmaps(place + 8)
            case 0x0537_be77:
                for field in [8, 16] { add("encryption header", place + field, 8) }
            default: break
            }
            place += 8 + (number(place + 4, 4) + 7) / 8 * 8
        }
    }

    private mutating func addBitmaps(_ place: Int) {
        for (offset, width) in [(0, 4), (8, 8), (16, 8)] { add("bitmaps", place + offset, width) }
        var entry = number(place + 16, 8)
        for _ in 0..<number(place, 4) {
            // Other types, granularities and extra data are no damage, though QEMU opens no image with them.
            for (offset, width) in [(0, 8), (8, 4), (12, 4), (18, 2)] {
                add("bitmap entry", entry + offset, width)
            }
            for index in 0..<number(entry + 8, 4) { add("bitmap table", number(entry, 8) + index * 8, 8) }
            entry += (24 + number(entry + 20, 4) + number(entry + 18, 2) + 7) / 8 * 8
        }
    }

    /// Damages one field, and answers which.
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
