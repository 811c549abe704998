import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@testable import BlockJobs

/// Every step of the metadata × {EIO, ENOSPC, half a transfer} × {once, for ever}: what reports success has
/// done its work; after a failure the image is sound, holds what it held, and the work can be done again.
@Suite("Metadata faults", .timeLimit(.minutes(60))) struct MetadataFaultTests {
    private typealias Fault = FaultPlan.EventFault

    /// One of that many faults is tried in a short run.
    private static let thinning = TestEffort.isLong ? 1 : 12

    @Test(arguments: MetadataFaultWork.allCases)
    func matrix(_ work: MetadataFaultWork) throws {
        var figures = ProofFigures(part: "faults", what: "metadata: \(work)")
        defer { figures.note() }
        let before = try work.makeFiles()
        let clean = TestStore(before)
        let old = try work.outcome(of: MetadataFaultWork.disk, clean)
        clean.faults.disarm()
        try work.run(on: clean)
        let heard = clean.faults.heard
        clean.faults.disarm()
        let trial = Trial(work: work, before: before, old: old, new: try work.outcome(of: work.result, clean))
        var random = SeededRandom(seed: TestEffort.seed)
        for event in MetadataEvent.allCases {
            for fault in Self.faults(event, heard[event] ?? 0) where random.number(in: 0..<Self.thinning) == 0
            {
                figures.tried += 1
                do { try trial.run(fault) } catch {
                    figures.violations += 1
                    Issue.record("\(work), \(fault): \(error)")
                }
            }
        }
        #expect(figures.tried > 0)
    }

    /// The faults at an event: at its first and its last occurrence, in a long run at more of them.
    private static func faults(_ event: MetadataEvent, _ count: Int) -> [Fault] {
        guard count > 0 else { return [] }
        let step = TestEffort.isLong ? max(1, count / 12) : max(1, count - 1)
        return Set(stride(from: 1, through: count, by: step)).union([count]).sorted().flatMap { occurrence in
            [(BlockError.Kind.io, false), (.noSpace, false), (.io, true)].flatMap { kind, isShort in
                [false, true].map { Fault(event, occurrence, kind, isShort: isShort, persists: $0) }
            }
        }
    }

    /// The steps that some work takes; a new one without a work that takes it is not tested here.
    @Test func allStepsAreTaken() throws {
        var heard: Set<MetadataEvent> = []
        for work in MetadataFaultWork.allCases {
            let store = TestStore(try work.makeFiles())
            store.faults.disarm()
            try work.run(on: store)
            heard.formUnion(store.faults.heard.keys)
        }
        let missing = Set(MetadataEvent.allCases).subtracting(heard)
        #expect(missing.isSubset(of: Self.notHere), "\(missing.subtracting(Self.notHere))")
    }

    /// What the filter alone emits, what nothing here reads, and what no driver does.
    private static let notHere: Set<MetadataEvent> = [
        .storageMergeHead, .storageMergedHead, .storageMergeTail, .storageMergedTail, .storageWrite,
        .storageWritten, .storageZero, .none, .refcountBlockRewrite, .readCompressed, .stateLoad,
    ]
}

/// A work on copies of the same files, and what it leaves when a call fails.
private struct Trial {
    let work: MetadataFaultWork
    let before: [String: SparseBytes]
    let old: MetadataFaultWork.Outcome
    let new: MetadataFaultWork.Outcome

    func run(_ fault: FaultPlan.EventFault) throws {
        let store = TestStore(before)
        store.faults.arm(fault)
        var failure: (any Error)?
        do { try work.run(on: store) } catch { failure = error }
        let hasFailed = store.faults.failures > 0
        store.faults.disarm()
        if let failure, !hasFailed { throw Mismatch("no call failed, but the work: \(failure)") }
        if failure == nil {
            let isDone = try work.outcome(of: work.result, store) == new
            guard isDone else { throw Mismatch("success is reported, but the work is not done") }
        } else {
            try judgeFailure(store)
        }
        try checkAll(store)
    }

    /// The disk is sound, each sector as before or as after the work; and the work can be done again.
    private func judgeFailure(_ store: TestStore) throws {
        let left = try work.outcome(of: MetadataFaultWork.disk, store)
        // Jobs that make a copy leave the disk alone.
        let wanted = work.result == MetadataFaultWork.disk ? new : old
        try compare(left.contents, old.contents, wanted.contents)
        guard [old, new].contains(where: { $0.contents.count == left.contents.count }) else {
            throw Mismatch("the size is \(left.contents.count)")
        }
        // An image that was to be repaired still is.
        if work != .repair { try checkAll(store) }
        // What the work made may be there already.
        let isThere = left.names.contains("new") || work == .deleteSnapshot && !left.names.contains("one")
        if isThere { return }
        do { try work.run(on: store) } catch { throw Mismatch("the work cannot be done again: \(error)") }
        guard try work.outcome(of: work.result, store).contents == new.contents else {
            throw Mismatch("the work done again gives another disk")
        }
    }

    /// Each sector has one of two contents; a disk that is longer than one of them has zeroes there.
    private func compare(_ found: [UInt8], _ old: [UInt8], _ new: [UInt8]) throws {
        let zeroes = [UInt8](repeating: 0, count: 512)
        for start in stride(from: 0, to: found.count, by: 512) {
            let sector = found.span.bytes.extracting(start..<min(start + 512, found.count))
            let fits = [old, new].contains { state in
                let other = start < state.count ? state : zeroes
                let from = start < state.count ? start : 0
                return sector.hasSameBytes(
                    as: other.span.bytes.extracting(from..<min(from + sector.byteCount, other.count)))
            }
            guard fits else { throw Mismatch("the sector at \(start) is neither old nor new") }
        }
    }

    private func checkAll(_ store: TestStore) throws {
        for name in store.files.keys.sorted() {
            let node = try MetadataFaultWork.open(name, store, readOnly: true, forCheck: true)
            defer { try? node.close() }
            var lines: [String] = []
            let result = try #require(node.format?.asCheckable).check(repair: .none) { lines.append($0) }
            guard result.corruptions == 0, result.checkErrors == 0 else {
                throw Mismatch("\(name) is corrupt: \(lines.prefix(5))")
            }
        }
    }
}
