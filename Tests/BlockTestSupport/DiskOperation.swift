/// One step of a random test: something that a user of a node can do.
public enum DiskOperation: Sendable, Equatable, CustomStringConvertible {
    /// Stores ``Pattern`` bytes; `noise` ones do not compress.
    case write(offset: Int, count: Int, stamp: Int, noise: Bool)
    /// Compresses and stores one whole unit; an ordinary write where it does not get smaller.
    case writeCompressed(offset: Int, count: Int, stamp: Int, noise: Bool)
    case writeZeroes(offset: Int, count: Int, mayUnmap: Bool)
    case discard(offset: Int, count: Int)
    case read(offset: Int, count: Int)
    case flush
    /// Closes the image and opens it again.
    case reopen
    case resize(Int)
    case createSnapshot(String)
    case applySnapshot(String)
    case deleteSnapshot(String)

    public var description: String {
        switch self {
        case .write(let offset, let count, let stamp, let noise):
            "write \(offset)+\(count) stamp \(stamp)\(noise ? " noise" : "")"
        case .writeCompressed(let offset, let count, let stamp, let noise):
            "compress \(offset)+\(count) stamp \(stamp)\(noise ? " noise" : "")"
        case .writeZeroes(let offset, let count, let mayUnmap):
            "zero \(offset)+\(count)\(mayUnmap ? " unmap" : "")"
        case .discard(let offset, let count): "discard \(offset)+\(count)"
        case .read(let offset, let count): "read \(offset)+\(count)"
        case .flush: "flush"
        case .reopen: "reopen"
        case .resize(let size): "resize \(size)"
        case .createSnapshot(let name): "snapshot create \(name)"
        case .applySnapshot(let name): "snapshot apply \(name)"
        case .deleteSnapshot(let name): "snapshot delete \(name)"
        }
    }

    /// Whether everything done before and by it survives a power failure.
    public var isDurable: Bool {
        switch self {
        case .flush, .reopen, .resize, .createSnapshot, .applySnapshot, .deleteSnapshot: true
        default: false
        }
    }
}

extension DiskOperation {
    /// The bytes that it reads or changes; `nil` where that is all or none.
    var range: Range<Int>? {
        switch self {
        case .write(let offset, let count, _, _), .writeCompressed(let offset, let count, _, _),
            .writeZeroes(let offset, let count, _), .discard(let offset, let count),
            .read(let offset, let count):
            offset..<offset + count
        default: nil
        }
    }

    var zeroedRange: Range<Int>? {
        switch self {
        case .writeZeroes, .discard: range
        default: nil
        }
    }

    /// The operation cut to a disk of `size` bytes; `nil` when nothing is left of it.
    public func clipped(to size: Int) -> DiskOperation? {
        guard let range else { return self }
        guard range.lowerBound < size else { return nil }
        let (offset, count) = (range.lowerBound, min(range.count, size - range.lowerBound))
        return switch self {
        case .write(_, _, let stamp, let noise):
            .write(offset: offset, count: count, stamp: stamp, noise: noise)
        case .writeCompressed(_, _, let stamp, let noise):
            .writeCompressed(offset: offset, count: count, stamp: stamp, noise: noise)
        case .writeZeroes(_, _, let mayUnmap): .writeZeroes(offset: offset, count: count, mayUnmap: mayUnmap)
        case .discard: .discard(offset: offset, count: count)
        default: .read(offset: offset, count: count)
        }
    }
}

/// What a driver can do, so that only that is asked of it.
public struct DiskAbilities: Sendable {
    public init() {}

    /// The unit of requests in bytes: the cluster size.
    public var unit = 1
    public var compresses = false
    public var resizes = false
    public var keepsSnapshots = false
}

/// Makes random operations for a disk.
public struct OperationGenerator {
    private var random: SeededRandom
    private let abilities: DiskAbilities
    private var size: Int
    private let originalSize: Int
    private var stamp = 0
    /// Requests rarely span more than a few of these.
    private let unit: Int

    public init(seed: UInt64, size: Int, abilities: DiskAbilities) {
        random = SeededRandom(seed: seed)
        self.abilities = abilities
        self.size = size
        originalSize = size
        unit = min(max(abilities.unit, 512), 65536)
    }

    public mutating func operations(_ count: Int) -> [DiskOperation] { (0..<count).map { _ in next() } }

    private mutating func next() -> DiskOperation {
        switch random.number(in: 0..<100) {
        case 0..<42: return write()
        case 42..<52: return abilities.compresses ? compressed() : write()
        case 52..<64:
            let (offset, count) = range()
            return .writeZeroes(offset: offset, count: count, mayUnmap: random.number(in: 0..<2) == 0)
        case 64..<72:
            let (offset, count) = range()
            return .discard(offset: offset, count: count)
        case 72..<80:
            let (offset, count) = range()
            return .read(offset: offset, count: count)
        case 80..<86: return .flush
        case 86..<89: return .reopen
        case 89..<92: return abilities.resizes ? resize() : .flush
        default: return abilities.keepsSnapshots ? snapshot() : write()
        }
    }

    private mutating func write() -> DiskOperation {
        let (offset, count) = range()
        stamp += 1
        return .write(offset: offset, count: count, stamp: stamp, noise: random.number(in: 0..<4) == 0)
    }

    private mutating func compressed() -> DiskOperation {
        stamp += 1
        let units = max(1, (size + abilities.unit - 1) / abilities.unit)
        return .writeCompressed(
            offset: random.number(in: 0..<units) * abilities.unit, count: abilities.unit, stamp: stamp,
            noise: random.number(in: 0..<5) == 0)
    }

    private mutating func resize() -> DiskOperation {
        let choices = [
            originalSize, max(512, originalSize / 1024 * 512), originalSize + 512, originalSize + unit * 3,
            max(512, (originalSize - unit) / 512 * 512),
        ]
        size = choices[random.number(in: 0..<choices.count)]
        return .resize(size)
    }

    private mutating func snapshot() -> DiskOperation {
        let name = ["one", "two", "three"][random.number(in: 0..<3)]
        switch random.number(in: 0..<4) {
        case 0, 1: return .createSnapshot(name)
        case 2: return .applySnapshot(name)
        default: return .deleteSnapshot(name)
        }
    }

    /// A range that likes the edges: start and end of the disk, borders of clusters and sectors.
    private mutating func range() -> (offset: Int, count: Int) {
        let count = length()
        var offset = random.number(in: 0..<max(size, 1))
        switch random.number(in: 0..<10) {
        case 0: offset = 0
        case 1: offset = max(0, size - count)
        case 2, 3, 4: offset = offset / abilities.unit * abilities.unit
        case 5: offset = max(0, offset / unit * unit - 1)
        case 6, 7: offset = offset / 512 * 512
        default: break
        }
        return (offset, max(1, min(count, size - offset)))
    }

    private mutating func length() -> Int {
        switch random.number(in: 0..<10) {
        case 0: 1 + random.number(in: 0..<600)
        case 1, 2: 512 * (1 + random.number(in: 0..<8))
        case 3, 4, 5: unit
        case 6, 7: unit * (1 + random.number(in: 0..<4))
        case 8: abilities.unit <= 65536 || random.number(in: 0..<4) == 0 ? abilities.unit : unit
        default: 1 + random.number(in: 0..<(3 * unit))
        }
    }
}
