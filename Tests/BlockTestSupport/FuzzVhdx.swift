import BlockCore
import BlockFormats

/// VHDX images of a fuzzer's bytes: their structures are too far apart, and sealed, for mere chance.
enum FuzzVhdx {
    private static let unit = 1 << 20
    /// Beginnings of structures, with as many bytes of each as are worth changing.
    private static let places = [
        0x10000..<0x10050, 0x20000..<0x20050, 0x30000..<0x30060, 0x40000..<0x40060,
        2 * unit..<2 * unit + 64, 3 * unit..<3 * unit + 256, 3 * unit + 0x10000..<3 * unit + 0x10200,
    ]

    /// A closed image over another one, and one with a log that is not empty.
    private static let closed = make { _ in }
    private static let open = make { store in
        let node = try opener(store).open("disk", settings: OpenSettings(readOnly: false))
        try node.write([UInt8](repeating: 7, count: 4096).span.bytes, at: unit)
        try node.flush()
        let dirty = store["disk"]
        try node.close()
        store["disk"] = dirty
    }

    private static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry(StandardFormats.all), sourceDate: 1)
    }

    private static func make(_ change: (TestStore) throws -> Void) -> SparseBytes {
        let store = TestStore()
        do {
            for name in ["base", "disk"] {
                var options = try opener(store).createOptions(format: "vhdx", filename: name)
                try options.set(.size, to: String(3 * unit))
                try options.set(.blockSize, to: String(unit))
                if name == "disk" { try options.set(.backingFile, to: "base") }
                try opener(store).create(name, format: "vhdx", options: options)
            }
            let node = try opener(store).open("disk", settings: OpenSettings(readOnly: false))
            try node.write([UInt8](repeating: 5, count: 4096).span.bytes, at: 0)
            try node.close()
            try change(store)
        } catch { return SparseBytes() }
        return store["disk"] ?? SparseBytes()
    }

    /// Ten bytes a patch: where, and the eight bytes that go there. What is sealed is sealed again.
    @Sendable static func tables(_ bytes: [UInt8]) -> SparseBytes {
        var image = closed
        patch(&image, bytes, over: places)
        for offset in [0x10000, 0x20000] { seal(&image, at: offset, count: 4096) }
        for offset in [0x30000, 0x40000] { seal(&image, at: offset, count: 65536) }
        return image
    }

    /// The same in the log, whose first entry stays sealed.
    @Sendable static func log(_ bytes: [UInt8]) -> SparseBytes {
        var image = open
        patch(&image, bytes, over: [unit..<unit + 256, unit + 4096..<unit + 4096 + 64])
        let length = image.read(at: unit + 8, count: 3).reversed().reduce(0) { $0 << 8 | Int($1) }
        seal(&image, at: unit, count: min(max(length, 4096), 64 << 10))
        return image
    }

    private static func patch(_ image: inout SparseBytes, _ bytes: [UInt8], over places: [Range<Int>]) {
        for start in stride(from: 0, to: max(0, bytes.count - 9), by: 10) {
            let place = places[Int(bytes[start]) % places.count]
            let offset = place.lowerBound + Int(bytes[start + 1]) * 4 % place.count
            image.write(Array(bytes[start + 2..<start + 10]), at: offset)
        }
    }

    /// Makes the CRC-32C right that lies 4 bytes into a structure.
    private static func seal(_ image: inout SparseBytes, at offset: Int, count: Int) {
        image.write([0, 0, 0, 0], at: offset + 4)
        var sum = UInt32.max
        for byte in image.read(at: offset, count: count) {
            sum = sum >> 8 ^ table[Int(UInt8(truncatingIfNeeded: sum) ^ byte)]
        }
        image.write((0..<4).map { UInt8(truncatingIfNeeded: ~sum >> UInt32($0 * 8)) }, at: offset + 4)
    }

    private static let table: [UInt32] = (0..<256).map { byte in
        (0..<8).reduce(UInt32(byte)) { sum, _ in sum >> 1 ^ (sum & 1 == 1 ? 0x82F6_3B78 : 0) }
    }
}
