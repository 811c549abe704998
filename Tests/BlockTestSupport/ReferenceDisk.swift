/// What a disk must hold: the same operations as a node, on plain bytes.
///
/// Its contents are those that the guest sees: the backing file's where nothing was written.
public struct ReferenceDisk: Sendable, Equatable {
    /// The disk as it was.
    public struct Snapshot: Sendable, Equatable {
        public var name: String
        public var contents: SparseBytes
    }

    /// What the guest sees; its length is the disk's size.
    public private(set) var contents: SparseBytes
    public private(set) var snapshots: [Snapshot] = []

    /// An empty disk, or one over `backing`, of which nothing past `size` shows.
    public init(size: Int, backing: SparseBytes? = nil) {
        contents = backing ?? SparseBytes()
        contents.resize(to: size)
    }

    /// The disk's size in bytes.
    public var size: Int { contents.count }

    public func read(_ range: Range<Int>) -> [UInt8] {
        contents.read(at: range.lowerBound, count: range.count)
    }

    /// Traps past the end of the disk.
    public mutating func write(_ bytes: [UInt8], at offset: Int) {
        precondition(offset >= 0 && offset + bytes.count <= size)
        contents.write(bytes, at: offset)
    }

    /// Also what a discard does, where it does anything.
    public mutating func writeZeroes(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= size)
        contents.zero(range)
    }

    /// New space reads as zeroes, whatever the backing file holds there.
    public mutating func resize(to size: Int) { contents.resize(to: size) }

    public func hasSnapshot(_ name: String) -> Bool { snapshots.contains { $0.name == name } }

    public mutating func createSnapshot(_ name: String) {
        snapshots.append(Snapshot(name: name, contents: contents))
    }

    public mutating func applySnapshot(_ name: String) {
        if let snapshot = snapshots.first(where: { $0.name == name }) { contents = snapshot.contents }
    }

    public mutating func deleteSnapshot(_ name: String) { snapshots.removeAll { $0.name == name } }
}

extension ReferenceDisk {
    /// Does what `operation` means; it fits the disk. A discard makes zeroes.
    public mutating func apply(_ operation: DiskOperation) {
        switch operation {
        case .write(let offset, let count, let stamp, let noise),
            .writeCompressed(let offset, let count, let stamp, let noise):
            write(Pattern.bytes(stamp: stamp, at: offset, count: count, noise: noise), at: offset)
        case .writeZeroes(let offset, let count, _), .discard(let offset, let count):
            writeZeroes(offset..<offset + count)
        case .resize(let size): resize(to: size)
        case .createSnapshot(let name): createSnapshot(name)
        case .applySnapshot(let name): applySnapshot(name)
        case .deleteSnapshot(let name): deleteSnapshot(name)
        case .read, .flush, .reopen: break
        }
    }

    /// The same snapshots, other contents.
    mutating func replaceContents(_ contents: SparseBytes) { self.contents = contents }

    /// Takes over bytes that were found on a disk.
    public mutating func adopt(_ bytes: [UInt8], at offset: Int) { contents.write(bytes, at: offset) }
}
