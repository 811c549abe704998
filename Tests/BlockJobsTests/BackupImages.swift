import BlockCore
import BlockFormats
import BlockTestSupport

@testable import BlockJobs

/// Images in memory for tests of backups.
struct BackupImages: Sendable {
    let store: TestStore
    private let opener: ImageOpener

    /// - Parameter pause: holds up writes to the files.
    init(_ store: TestStore = TestStore(), pause: PausePoint? = nil) {
        self.store = store
        opener = ImageOpener(
            registry: DriverRegistry(
                formats: StandardFormats.all, protocols: [pause?.entry(store) ?? store.entry]),
            policy: .anyFile)
    }

    /// Makes an empty image and opens it for writing.
    func make(
        _ name: String, _ format: String = "qcow2", size: Int, cluster: Int? = nil,
        over backing: (name: String, format: String)? = nil
    ) throws -> BlockNode {
        var options = try opener.createOptions(format: format, filename: name)
        try options.set(.size, to: String(size))
        if let cluster { try options.set(.clusterSize, to: String(cluster)) }
        if let backing {
            try options.set(.backingFile, to: backing.name)
            try options.set(.backingFormat, to: backing.format)
        }
        try opener.create(name, format: format, options: options)
        return try open(name, format)
    }

    func open(_ name: String, _ format: String = "qcow2", readOnly: Bool = false) throws -> BlockNode {
        try opener.open(name, format: format, settings: OpenSettings(readOnly: readOnly))
    }

    /// An image of random contents: data, zeroes, and what is not allocated.
    func makeFilled(
        _ name: String, _ format: String = "qcow2", size: Int, cluster: Int? = nil,
        over backing: (name: String, format: String)? = nil, seed: UInt64
    ) throws -> BlockNode {
        let node = try make(name, format, size: size, cluster: cluster, over: backing)
        var guest = Guest(seed: seed, size: size)
        for _ in 0..<24 { try guest.act(on: node) }
        return node
    }
}

/// Writes, zeroes and discards at random.
struct Guest: Sendable {
    private var random: SeededRandom
    private let size: Int
    private var stamp: Int

    init(seed: UInt64, size: Int) {
        random = SeededRandom(seed: seed)
        self.size = size
        stamp = Int(truncatingIfNeeded: seed &* 1000)
    }

    mutating func act(on node: BlockNode) throws {
        let count = [512, 3000, 4096, 65536, 200_000][random.number(in: 0..<5)]
        let offset = random.number(in: 0..<max(1, size - count))
        let length = min(count, size - offset)
        stamp += 1
        switch random.number(in: 0..<5) {
        case 0: try node.writeZeroes(at: offset, count: length)
        case 1: try node.discard(at: offset, count: length)
        default:
            try node.write(
                Pattern.bytes(stamp: stamp, at: offset, count: length).span.bytes, at: offset)
        }
    }

    /// Threads that write to `node` at the same time.
    static func threads(_ count: Int, on node: BlockNode, seed: UInt64, acts: Int = 40) -> [TestThread] {
        (0..<count).map { index in
            TestThread {
                var guest = Guest(seed: seed &* 31 &+ UInt64(index), size: try node.length())
                for _ in 0..<acts { try guest.act(on: node) }
            }
        }
    }
}

extension JobControl {
    /// Waits until `isTrue` holds after a step or a change of the status.
    func wait(until isTrue: @escaping @Sendable (JobControl) -> Bool) {
        let isReached = Monitor(false)
        observe { control in
            guard isTrue(control) else { return }
            isReached.withLock { $0 = true }
            isReached.notifyAll()
        }
        if isTrue(self) { return }
        isReached.wait(until: { $0 }) { _ in }
    }
}
