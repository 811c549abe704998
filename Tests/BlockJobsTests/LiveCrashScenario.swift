import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization

@testable import BlockJobs

/// A job at work on images of one format, with a guest that writes between its steps, and what must hold
/// after a crash at any event.
///
/// One thread does everything, so a seed replays: the guest acts on the job's progress.
struct LiveCrashScenario {
    enum Work: String, CaseIterable, Sendable {
        case stream, streamToBase, commit, commitMiddle, activeCommit, rebase, rebaseToNothing
        case mirror, mirrorBlocking, backup, incrementalBackup, amend

        /// Whether guests may write while the job runs; else they write before and after.
        var isLive: Bool {
            switch self {
            case .commit, .rebase, .rebaseToNothing, .amend: false
            default: true
            }
        }

        func fits(_ format: LiveFormat) -> Bool {
            switch self {
            case .mirror, .mirrorBlocking, .backup: true
            case .amend: format.driver.name == "qcow2" && !format.mayRepair
            case .incrementalBackup: format.driver.name == "qcow2" && !format.mayRepair
            default: format.hasBacking
            }
        }
    }

    static let disk = "top"
    static let copy = "copy"
    static let bitmap = "changes"

    let work: Work
    let images: LiveImages
    let seed: UInt64
    /// The files before the job, and the events since.
    let before: [String: SparseBytes]
    private(set) var log: [StorageEvent] = []
    let guest: NotedGuest
    /// The guest's disk before the job.
    let original: ReferenceDisk
    private let device: BlockDevice
    /// What the backup must hold from an event on.
    private(set) var backup: (from: Int, contents: ReferenceDisk)?

    /// Makes the images and opens the guest's disk.
    init(_ work: Work, _ format: LiveFormat, seed: UInt64) throws {
        self.work = work
        self.seed = seed
        images = LiveImages(store: TestStore(), format: format)
        var random = SeededRandom(seed: seed)
        var model = ReferenceDisk(size: LiveImages.size)
        let layers = format.hasBacking ? ["base", "middle", Self.disk] : [Self.disk]
        for (index, name) in layers.enumerated() {
            try images.make(name, over: index > 0 ? layers[index - 1] : nil)
            try images.fill(name, stamp: index * 100, model: &model, &random)
        }
        try images.make(Self.copy)
        if work == .rebase {
            var other = ReferenceDisk(size: LiveImages.size)
            try images.fill(Self.copy, stamp: 900, model: &other, &random)
        }
        if work == .incrementalBackup { try Self.addBitmap(images) }
        images.store.clearLog()
        before = images.store.files
        device = BlockDevice(name: "disk0", root: try images.open(Self.disk))
        original = model
        guest = NotedGuest(device, images.store, model: model, seed: seed &+ 1)
    }

    private static func addBitmap(_ images: LiveImages) throws {
        let node = try images.open(disk)
        try node.changeBitmaps { driver throws(BlockError) in
            try driver.addBitmap(bitmap, granularity: 4096, isEnabled: true)
        }
        try node.close()
    }

    // MARK: The run

    /// Runs the job to its end and closes everything. The target has then all that the guest wrote.
    mutating func run() throws {
        for _ in 0..<4 { guest.act() }
        let moment = try runJob()
        if work == .backup || work == .incrementalBackup, let moment {
            backup = (images.store.logCount, moment)
        }
        for _ in 0..<6 { guest.act() }
        guest.flush()
        try device.close()
        if let failure = guest.failure { throw failure }
        log = images.store.log
        try judge(images.store.files, at: log.count)
    }

    /// - Returns: the disk at the moment when the job had set its total.
    private func runJob() throws -> ReferenceDisk? {
        // 16 KiB a step.
        let control = JobControl(
            bytesPerSecond: 20 * (16 << 10), clock: ManualClock(movesByItself: true), maximumWorkers: 1)
        let moment = Mutex<ReferenceDisk?>(nil)
        let (guest, isLive) = (guest, work.isLive)
        control.observe { control in
            if control.progress.total > 0 { moment.withLock { $0 = $0 ?? guest.contents } }
            if isLive { guest.act() }
            if control.isReady, !control.mustComplete { control.requestCompletion() }
        }
        let target = try needsTarget ? images.open(Self.copy) : nil
        do { try job(target).run(control) } catch {
            try? device.close()
            throw error
        }
        if let target, device.root !== target, device.root?.backing !== target { try target.close() }
        return moment.withLock { $0 }
    }

    private var needsTarget: Bool {
        switch work {
        case .mirror, .mirrorBlocking, .backup, .incrementalBackup, .rebase: true
        default: false
        }
    }

    private func job(_ target: BlockNode?) throws -> any BlockJob {
        guard let top = device.root else { throw Mismatch("the device has no disk") }
        if let target { return try copying(top, to: target) }
        let base = top.chain.last
        return switch work {
        case .streamToBase: StreamJob(node: top, base: base)
        case .commit: CommitJob(top: top)
        case .commitMiddle:
            CommitJob(top: top.chain[1], base: base, emptiesTop: false, overlay: top)
        case .activeCommit: ActiveCommitJob(top: top, base: seed % 2 == 0 ? base : nil, device: device)
        case .rebaseToNothing: RebaseJob(node: top, backing: nil, reference: nil)
        case .amend: try amendment(of: top)
        default: StreamJob(node: top)
        }
    }

    private func copying(_ top: BlockNode, to target: BlockNode) throws -> any BlockJob {
        switch work {
        case .rebase:
            RebaseJob(
                node: top, backing: target,
                reference: BackingReference(filename: Self.copy, format: images.format.driver.name))
        case .backup: BackupJob(source: top, target: target)
        case .incrementalBackup:
            BackupJob(source: top, target: target, sync: .incremental(bitmap: Self.bitmap))
        default:
            MirrorJob(
                source: top, target: target, copyMode: work == .mirror ? .background : .writeBlocking,
                granularity: 16 << 10, device: device)
        }
    }

    private func amendment(of top: BlockNode) throws -> AmendJob {
        var options = CreateOptions(Qcow2Driver.amendOptions)
        try options.set(name: "lazy_refcounts", to: images.format.label == "lazy" ? "off" : "on")
        return AmendJob(node: top, amendment: Amendment(options))
    }
}
