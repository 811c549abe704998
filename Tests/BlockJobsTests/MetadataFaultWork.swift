import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@testable import BlockJobs

/// One thing that a command or a job does to a qcow2 image, on images in a store.
enum MetadataFaultWork: String, CaseIterable, Sendable {
    case write, writeCompressed, zeroes, smallClusters, grow, shrink, snapshot, applySnapshot, deleteSnapshot
    case saveState, amend, bitmap, repair, copyOnRead, convert, stream, commit, rebase, mirror, backup

    static let disk = "top"
    private static let size = 256 << 10

    /// What the image is after the work, as far as it can be told from its files.
    struct Outcome: Equatable {
        var contents: [UInt8]
        var names: [String]
    }

    /// The image over which the next user of the result works: a copy for jobs that make one.
    var result: String {
        switch self {
        case .convert, .mirror, .backup: "copy"
        default: Self.disk
        }
    }

    private static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([Qcow2Driver.self, RawDriver.self]), policy: .anyFile)
    }

    static func open(
        _ name: String, _ store: TestStore, readOnly: Bool = false, forCheck: Bool = false,
        copyOnRead: Bool = false
    ) throws -> BlockNode {
        var settings = OpenSettings(readOnly: readOnly, forCheck: forCheck)
        settings.copyOnRead = copyOnRead
        return try opener(store).open(name, format: "qcow2", settings: settings)
    }

    // MARK: Images

    private var clusterSize: String { self == .smallClusters || self == .shrink ? "512" : "4096" }

    /// Makes the disk over a base, both with data, and an empty copy.
    func makeFiles() throws -> [String: SparseBytes] {
        let store = TestStore()
        for (name, backing) in [("base", nil), (Self.disk, "base"), ("copy", nil)] as [(String, String?)] {
            try make(name, over: backing, store)
        }
        let base = try Self.open("base", store)
        try base.write(Pattern.bytes(stamp: 1, at: 0, count: 200_000).span.bytes, at: 0)
        try base.close()
        let node = try Self.open(Self.disk, store)
        try node.write(Pattern.bytes(stamp: 2, at: 8192, count: 60_000).span.bytes, at: 8192)
        try prepare(node)
        try node.flush()
        // Of an image that was not closed, the refcounts are to be repaired.
        let dirty = self == .repair ? store.files : nil
        try node.close()
        return dirty ?? store.files
    }

    private func make(_ name: String, over backing: String?, _ store: TestStore) throws {
        let opener = Self.opener(store)
        var options = try opener.createOptions(format: "qcow2", filename: name)
        try options.set(.size, to: String(self == .smallClusters ? 3 << 20 : Self.size))
        try options.set(.clusterSize, to: clusterSize)
        try options.set(.backingFile, to: backing)
        try options.set(.backingFormat, to: backing.map { _ in "qcow2" })
        if self == .smallClusters { try options.set(name: "refcount_bits", to: "64") }
        if self == .repair { try options.set(name: "lazy_refcounts", to: "on") }
        try opener.create(name, format: "qcow2", options: options)
    }

    private func prepare(_ node: BlockNode) throws {
        switch self {
        case .applySnapshot, .deleteSnapshot:
            try node.createSnapshot(SnapshotInfo(id: "", name: "one"))
            try node.write(Pattern.bytes(stamp: 3, at: 0, count: 30_000).span.bytes, at: 0)
        case .shrink:
            try node.write(Pattern.bytes(stamp: 3, at: 200_192, count: 9_216).span.bytes, at: 200_192)
        case .write, .zeroes: try node.createSnapshot(SnapshotInfo(id: "", name: "kept"))
        case .bitmap:
            try node.changeBitmaps { driver throws(BlockError) in
                try driver.addBitmap("old", granularity: 4096, isEnabled: true)
            }
        default: break
        }
    }

    // MARK: The work

    /// Opens the image, does the work and closes everything.
    func run(on store: TestStore) throws {
        let node = try Self.open(
            Self.disk, store, forCheck: self == .repair, copyOnRead: self == .copyOnRead)
        do { try act(on: node, store) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    private func act(on node: BlockNode, _ store: TestStore) throws {
        switch self {
        case .write, .writeCompressed, .zeroes, .smallClusters: try writeData(node)
        case .grow:
            try node.resize(to: 6 << 20)
            try node.write(Pattern.bytes(stamp: 5, at: 5 << 20, count: 512).span.bytes, at: 5 << 20)
        case .shrink: try node.resize(to: 96 << 10)
        case .snapshot: try node.createSnapshot(SnapshotInfo(id: "", name: "new"))
        case .applySnapshot: try node.applySnapshot("one")
        case .deleteSnapshot: try node.deleteSnapshot(named: "one")
        case .saveState: try node.saveVMState([UInt8](repeating: 7, count: 9000).span.bytes, at: 0)
        case .amend: try amend(node)
        case .bitmap:
            try node.changeBitmaps { driver throws(BlockError) in
                try driver.addBitmap("new", granularity: 8192, isEnabled: true)
                try driver.removeBitmap("old")
            }
        case .repair: try CheckJob(node, repair: .all, report: { _ in }).run(JobControl())
        case .copyOnRead: _ = try node.readBytes(at: 70_000, count: 100_000)
        default: try runJob(on: node, store)
        }
    }

    private func writeData(_ node: BlockNode) throws {
        switch self {
        case .writeCompressed:
            for offset in stride(from: 0, to: 65536, by: 4096) {
                try node.perform(.writeCompressed(offset: offset, count: 4096, stamp: 5, noise: false))
            }
        case .zeroes:
            try node.writeZeroes(at: 4096, count: 40_000)
            try node.discard(at: 65536, count: 8192)
        case .smallClusters:
            try node.write(Pattern.bytes(stamp: 5, at: 0, count: 2 << 20).span.bytes, at: 0)
            try node.flush()
            try node.write(Pattern.bytes(stamp: 6, at: 5 << 19, count: 65536).span.bytes, at: 5 << 19)
        default:
            try node.write(Pattern.bytes(stamp: 5, at: 10_240, count: 20_480).span.bytes, at: 10_240)
            try node.write(Pattern.bytes(stamp: 6, at: 150_016, count: 9_216).span.bytes, at: 150_016)
        }
        try node.flush()
    }

    private func amend(_ node: BlockNode) throws {
        var options = CreateOptions(Qcow2Driver.amendOptions)
        try options.set(name: "compat", to: "0.10")
        try AmendJob(node: node, amendment: Amendment(options)).run(JobControl())
    }

    private func runJob(on node: BlockNode, _ store: TestStore) throws {
        let control = JobControl(maximumWorkers: 1)
        switch self {
        case .commit: return try CommitJob(top: node).run(control)
        case .rebase: return try RebaseJob(node: node, backing: nil, reference: nil).run(control)
        case .stream: return try StreamJob(node: node).run(control)
        default: break
        }
        let copy = try Self.open("copy", store)
        do {
            switch self {
            case .convert: try ConvertJob(sources: [node], target: copy).run(control)
            case .backup: try BackupJob(source: node, target: copy).run(control)
            default:
                control.requestCompletion()
                try MirrorJob(source: node, target: copy).run(control)
            }
        } catch {
            try? copy.close()
            throw error
        }
        try copy.close()
    }

    // MARK: What is left

    /// Opens an image and looks at all that the work may change.
    func outcome(of name: String, _ store: TestStore) throws -> Outcome {
        let node = try Self.open(name, store, readOnly: true)
        defer { try? node.close() }
        var names: [String] = []
        if let driver = node.format as? any SnapshotCapable { names += try driver.snapshots().map(\.name) }
        if let driver = node.format as? any BitmapCapable {
            names += try driver.bitmaps().map { $0.name + ($0.isInconsistent ? " (inconsistent)" : "") }
        }
        names += node.chain.dropFirst().map(\.filename)
        if self == .amend { names.append("\(try #require(node.format).describe())") }
        return Outcome(contents: try Layers.contents(node), names: names)
    }
}
