import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// `compress`: whatever is written is stored compressed.
@Suite struct CompressDriverTests {
    private let images = FilterImages()
    private static let size = 62000
    private let options = "driver=compress,file.driver=qcow2,file.file.filename=image"

    init() throws { try images.create("image", size: Self.size) }

    private func kinds() throws -> String {
        let image = try images.open("driver=qcow2,file.filename=image", readOnly: true)
        defer { try? image.close() }
        return try stride(from: 0, to: Self.size, by: 4096).reduce(into: "") { text, offset in
            switch try image.layerExtent(at: offset, limit: 1).status {
            case .unallocated: text += "-"
            case .zero: text += "z"
            case .data: text += "d"
            case .encoded(let compressed): text += compressed ? "c" : "e"
            }
        }
    }

    @Test func unitsAreCompressed() throws {
        let node = try images.open(options)
        try node.put([5] * 8192, at: 4096)
        try node.put([6], at: 16384)
        try node.put([7] * 3000, at: Self.size - 3000)
        try node.writeZeroes(at: 20480, count: 8192, flags: [])
        #expect(try node.readBytes(at: 16384, count: 2) == [6, 0])
        #expect(try node.readBytes(at: Self.size - 3001, count: 2) == [0, 7])
        try node.close()
        #expect(try kinds() == "-cc-czz-------cc")
    }

    /// Bytes that do not become smaller are stored as they are.
    @Test func noiseIsStoredPlain() throws {
        var random = SeededRandom(seed: 1)
        let noise = random.bytes(4096)
        let node = try images.open(options)
        try node.put(noise, at: 0)
        #expect(try node.readBytes(at: 0, count: 4096) == noise)
        try node.close()
        #expect(try kinds().hasPrefix("d-"))
    }

    @Test func aPartOfAUnitKeepsTheRest() throws {
        let node = try images.open(options)
        try node.put([1] * 4096, at: 0)
        try node.put([2] * 100, at: 50)
        try node.writeZeroes(at: 4000, count: 200, flags: [])
        #expect(
            try node.readBytes(at: 0, count: 4300)
                == [1] * 50 + [2] * 100 + [1] * 3850 + [0] * 300)
        #expect(
            failure { try node.writeZeroes(at: 10, count: 10, flags: .noFallback) }?.kind == .unsupported)
        try node.close()
        #expect(try kinds().hasPrefix("cc-"))
    }

    @Test func onlyFormatsThatCompressWillDo() throws {
        images.store["disk"] = SparseBytes(count: 4096)
        #expect(
            images.refusal("driver=compress,file.driver=raw,file.file.filename=disk")
                == "Compression is not supported for underlying format: raw")
        #expect(
            images.refusal("driver=compress,file.filename=disk")
                == "Compression is not supported for underlying format: file")
        #expect(images.store.openDisks == 0)
    }
}
