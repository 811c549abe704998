import BlockCore

/// A step that was done, with what a power failure around it may leave.
struct StepRecord {
    var operation: DiskOperation
    /// Events logged before and after it.
    var began: Int
    var ended: Int
    var after: ReferenceDisk
    /// The disk as it would be had the step been done, where it failed.
    var intended: ReferenceDisk?

    var failed: Bool { intended != nil }
}

/// An open image under test beside the model of what it must hold.
final class ImageSession {
    let configuration: FormatConfiguration
    let store: TestStore
    private(set) var node: BlockNode
    var model: ReferenceDisk
    private(set) var steps: [StepRecord] = []
    private let original: ReferenceDisk

    init(_ configuration: FormatConfiguration, store: TestStore, model: ReferenceDisk) throws(BlockError) {
        self.configuration = configuration
        self.store = store
        self.model = model
        original = model
        node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
    }

    /// Makes an image and opens it.
    static func new(_ configuration: FormatConfiguration) throws -> ImageSession {
        let store = TestStore()
        let model = try configuration.create(in: store)
        store.clearLog()
        return try ImageSession(configuration, store: store, model: model)
    }

    var abilities: DiskAbilities {
        var abilities = DiskAbilities()
        guard let format = node.format else { return abilities }
        abilities.unit = format.writeGranularity
        abilities.compresses = configuration.compresses && format is any CompressedWriting
        abilities.resizes = format is any Resizable && format.unwrittenReadsAsZero
        abilities.keepsSnapshots = configuration.keepsSnapshots && format is any SnapshotCapable
        return abilities
    }

    // MARK: Steps

    /// Does one operation on image and model. Errors of the driver are an outcome where `mayFail`.
    func perform(_ operation: DiskOperation, mayFail: Bool = false) throws {
        guard let operation = fitted(operation) else { return }
        let began = store.logCount
        var intended = model
        intended.apply(operation)
        var failure: BlockError?
        do throws(BlockError) { try act(operation) } catch { failure = error }
        if let error = failure, !mayFail, !isRefusal(error, of: operation) {
            throw Mismatch("\(operation) failed: \(error)")
        }
        try store.faults.suspended { try settle(operation, intended, failed: failure != nil) }
        steps.append(
            StepRecord(
                operation: operation, began: began, ended: store.logCount, after: model,
                intended: failure == nil ? nil : intended))
    }

    /// The operation as far as it makes sense now; `nil` when it does not.
    private func fitted(_ operation: DiskOperation) -> DiskOperation? {
        switch operation {
        case .createSnapshot(let name): model.hasSnapshot(name) ? nil : operation
        case .applySnapshot(let name), .deleteSnapshot(let name): model.hasSnapshot(name) ? operation : nil
        default: operation.clipped(to: model.size)
        }
    }

    /// What a format may always refuse: sizes, snapshots of other sizes, more snapshots than fit.
    private func isRefusal(_ error: BlockError, of operation: DiskOperation) -> Bool {
        switch operation {
        case .resize: error.kind == .unsupported
        case .applySnapshot: error.kind == .unsupported || error.kind == .limit
        case .createSnapshot: error.kind == .limit
        default: false
        }
    }

    private func act(_ operation: DiskOperation) throws(BlockError) {
        if operation == .reopen { try reopen() } else { try node.perform(operation) }
    }

    /// Closes and opens the image. The node is a new one also when closing failed.
    private func reopen() throws(BlockError) {
        var failure: BlockError?
        do throws(BlockError) { try node.close() } catch {
            failure = error
            reopensFailed += 1
        }
        var opened: BlockNode?
        do throws(BlockError) {
            opened = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        } catch { failure = failure ?? error }
        if opened == nil {
            store.faults.disarm()
            opened = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        }
        if let opened { node = opened }
        if let failure { throw failure }
    }

    /// Goes on with another node over the same files.
    func replaceNode(_ node: BlockNode) { self.node = node }

    // MARK: Comparing

    /// Brings the model to what the disk now holds, where that was left open, and compares.
    private func settle(_ operation: DiskOperation, _ intended: ReferenceDisk, failed: Bool) throws {
        if operation.isReopen && failed {
            model = try DiskComparison.accept(node, from: possibleStates())
        } else if failed {
            model = try DiskComparison.accept(node, from: [model, intended], in: operation.range)
        } else if let range = operation.range {
            let isOpen = operation.isDiscard
            model = try DiskComparison.accept(node, from: isOpen ? [model, intended] : [intended], in: range)
        } else {
            model = intended
        }
    }

    /// Every state that the disk may have when not all that was written since the last flush arrived.
    ///
    /// - Parameter position: the number of logged events that happened; all when `nil`.
    func possibleStates(at position: Int = .max) -> [ReferenceDisk] {
        let settled = steps.lastIndex { $0.operation.isDurable && !$0.failed && $0.ended <= position }
        var states = [settled.map { steps[$0].after } ?? original]
        for step in steps[(settled.map { $0 + 1 } ?? 0)...] where step.began < position {
            states.append(step.after)
            if let intended = step.intended { states.append(intended) }
            if let range = step.operation.zeroedRange {
                var zeroed = step.after
                zeroed.writeZeroes(range)
                states.append(zeroed)
            }
        }
        return states
    }

    /// Compares the whole disk and its list of snapshots with the model.
    func compareAll() throws { _ = try DiskComparison.accept(node, from: [model]) }

    /// How often the image was closed with a failure to be opened again.
    private(set) var reopensFailed = 0
    /// Whether any step failed.
    var sawFailure: Bool { steps.contains { $0.failed } }
    /// What the closed image may hold.
    private(set) var statesAfterClose: [ReferenceDisk] = []

    /// Closes an image whose storage failed. When closing works, nothing that was acknowledged may be
    /// missing. The files are closed in any case.
    ///
    /// - Parameter look: called before the failures are forgotten.
    /// - Returns: what closing threw.
    func closeAfterFailures(_ look: () -> Void = {}) throws -> BlockError? {
        let failures = store.faults.failures
        var failure: BlockError?
        do throws(BlockError) { try node.close() } catch { failure = error }
        guard failure == nil || store.faults.failures > failures else {
            throw Mismatch("closing failed although no call failed meanwhile")
        }
        guard store.openDisks == 0 else { throw Mismatch("closing left \(store.openDisks) files open") }
        statesAfterClose = failure == nil ? [model] : possibleStates()
        look()
        store.faults.disarm()
        return failure
    }

    /// Closes the image, then checks its structure and the contents of its snapshots.
    func finish(leaksAllowed: Bool = false, mayRepair: Bool = false) throws {
        try node.close()
        if mayRepair { try DiskComparison.repair(configuration, store) }
        try DiskComparison.checkStructure(
            configuration, store, leaksAllowed: leaksAllowed || configuration.leavesLeaks)
        let again = try configuration.open(in: store, settings: OpenSettings())
        _ = try DiskComparison.accept(again, from: [model])
        try again.close()
        for snapshot in model.snapshots {
            try DiskComparison.compareSnapshot(snapshot, configuration, store)
        }
    }
}

extension DiskOperation {
    var isReopen: Bool { self == .reopen }
    var isDiscard: Bool { if case .discard = self { true } else { false } }
}
