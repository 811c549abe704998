import BlockCore
import BlockFormats
import BlockProtocols
import BlockTestSupport
import Synchronization
import Testing

/// A node of the fake format together with what its disk must read as.
struct Layer {
    let node: BlockNode
    let driver: FakeDriver
    /// The disk as it must read, chain included.
    var model: [UInt8]
}

enum Layers {
    /// An empty image over `backing`.
    static func empty(
        size: Int, clusterBytes: Int, name: String, over backing: Layer? = nil, hasZeroClusters: Bool = true,
        readOnly: Bool = false
    ) -> Layer {
        let settings = OpenSettings(readOnly: false)
        let file = BlockNode(.storage(MemoryDriver()), filename: name, settings: settings)
        let driver = FakeDriver(
            size: size, clusterBytes: clusterBytes, hasZeroClusters: hasZeroClusters, file: file)
        driver.state.withLock { state in
            state.backing = backing.map { BackingReference(filename: $0.node.filename, format: "fake") }
        }
        let node = BlockNode(
            .format(driver), filename: name, children: [file], backing: backing?.node,
            settings: OpenSettings(readOnly: readOnly))
        var model = [UInt8](repeating: 0, count: size)
        if let below = backing?.model {
            let count = min(size, below.count)
            model.replaceSubrange(0..<count, with: below[0..<count])
        }
        return Layer(node: node, driver: driver, model: model)
    }

    /// Fills an image at random: data, zeroes, compressed clusters, and clusters that stay unallocated.
    static func fill(_ layer: inout Layer, _ random: inout SeededRandom, density: Int = 4) throws {
        let unit = layer.driver.clusterBytes
        for start in stride(from: 0, to: layer.model.count, by: unit) {
            let range = start..<min(start + unit, layer.model.count)
            switch random.number(in: 0..<density) {
            case 0: try write(random.bytes(range.count), at: start, &layer)
            case 1: try zero(range, &layer, &random)
            case 2: try partly(range, &layer, &random)
            default: break
            }
        }
    }

    static func write(_ bytes: [UInt8], at offset: Int, _ layer: inout Layer) throws {
        try layer.node.write(bytes.span.bytes, at: offset)
        layer.model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }

    private static func zero(_ range: Range<Int>, _ layer: inout Layer, _ random: inout SeededRandom) throws {
        if random.number(in: 0..<3) == 0 {
            // Zeroes as data: no map can tell.
            return try write([UInt8](repeating: 0, count: range.count), at: range.lowerBound, &layer)
        }
        try layer.node.writeZeroes(at: range.lowerBound, count: range.count)
        layer.model.replaceSubrange(range, with: repeatElement(0, count: range.count))
    }

    private static func partly(_ range: Range<Int>, _ layer: inout Layer, _ random: inout SeededRandom) throws
    {
        let head = random.bytes(max(1, range.count / 4))
        if random.number(in: 0..<2) == 0 {
            let room = range.count - head.count
            let offset = range.lowerBound + (room > 0 ? random.number(in: 0..<room) : 0)
            return try write(head, at: offset, &layer)
        }
        try layer.node.writeCompressed(head.span.bytes, at: range.lowerBound)
        layer.model.replaceSubrange(
            range, with: head + [UInt8](repeating: 0, count: range.count - head.count))
    }

    /// All that a node reads as.
    static func contents(_ node: BlockNode) throws -> [UInt8] {
        try node.readBytes(at: 0, count: try node.length())
    }

    /// A raw image over bytes in memory.
    static func raw(_ bytes: [UInt8], name: String = "raw", readOnly: Bool = false) throws -> BlockNode {
        try raw(on: MemoryDriver(bytes), name: name, readOnly: readOnly)
    }

    /// A raw image over a file.
    static func raw(
        on storage: any ProtocolDriver, name: String = "raw", readOnly: Bool = false
    ) throws -> BlockNode {
        let opener = ImageOpener(registry: DriverRegistry(formats: StandardFormats.all, protocols: []))
        return try opener.open(
            storage: storage, filename: name, format: RawDriver.name,
            settings: OpenSettings(readOnly: readOnly))
    }
}
