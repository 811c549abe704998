import BlockCore
import BlockTestSupport

extension LiveModel {
    /// Does a life from its beginning to its end.
    static func live(
        _ steps: [LiveStep], seed: UInt64, clock: any BlockClock = SystemClock(),
        point: @escaping @Sendable () -> Void = {}
    ) throws -> [String: Int] {
        let model = try LiveModel(seed, clock: clock, point: point)
        do {
            for step in steps { try model.perform(step) }
            try model.finish()
        } catch {
            model.abandon()
            throw error
        }
        return model.counts
    }

    /// Ends all threads after a failure.
    private func abandon() {
        device.resume()
        _ = guest?.finish()
        engine.cancelAll()
        try? device.close()
    }

    func perform(_ step: LiveStep) throws {
        try reap()
        switch step {
        case .change(let seed):
            try quiet()
            try change(seed: seed, count: 8)
        case .guest(let seed): startGuest(seed)
        case .rounds(let count): guest?.waitForRounds(count)
        case .quiet: try quiet()
        case .start(let job, let choice, let speed, let isPaused):
            try start(job, choice, speed: speed, isPaused: isPaused)
        case .pause(let index): with(index) { $0.running.pause() }
        case .resume(let index): with(index) { try? $0.running.resume() }
        case .speed(let index, let speed): with(index) { try? $0.running.setSpeed(speed) }
        case .cancel(let index): try cancel(index)
        case .complete(let index): try complete(index)
        case .resize(let units): return try resize(units)
        case .snapshot(let action, let name): return try snapshot(action, "snapshot\(name)")
        case .overlay(let choice):
            // A job may put another image on top.
            try endJobs()
            try reopen(overlay: (try overlayFormat(choice), choice))
        case .reopen(let copies): try reopen(copiesOnRead: copies)
        case .protect: return try protect()
        case .bitmap: try toggleBitmap()
        case .halt: halt()
        }
        if !step.isOfJob || !jobs.isEmpty { count(step.kind) }
    }

    // MARK: The guest

    private func startGuest(_ seed: UInt64) {
        guard guest == nil else { return }
        guest = LiveGuest(device, model: disk)
        guest?.start(seed: seed)
    }

    private func halt() {
        device.stop()
        if let node = device.root { _ = try? node.readBytes(at: 0, count: 512) }
        device.resume()
    }

    // MARK: Alone

    /// Writes anywhere, in whole and in parts of units. Jobs may be under way, a guest may not.
    func change(seed: UInt64, count: Int) throws {
        var abilities = DiskAbilities()
        let format = try root().format
        abilities.unit = format?.writeGranularity ?? 512
        abilities.compresses = format?.asCompressedWriting != nil && device.root?.driverName == "qcow2"
        var generator = OperationGenerator(seed: seed, size: disk.size, abilities: abilities)
        for operation in generator.operations(count) {
            guard operation != .reopen, let operation = operation.clipped(to: disk.size) else { continue }
            do throws(BlockError) {
                try device.withRoot { node throws(BlockError) in try node.perform(operation) }
            } catch { throw Mismatch("\(operation) failed: \(error)") }
            try settle(operation)
        }
    }

    /// Brings the model to what the operation has left open: discarded bytes are old, or zero.
    private func settle(_ operation: DiskOperation) throws {
        guard case .discard(let offset, let count) = operation else { return disk.apply(operation) }
        let old = disk.read(offset..<offset + count)
        let found = try device.readBytes(at: offset, count: count)
        guard zip(found, old).allSatisfy({ $0 == $1 || $0 == 0 }) else {
            throw Mismatch("\(operation) left other bytes than the old ones and zeroes")
        }
        disk.adopt(found, at: offset)
    }

    private func resize(_ units: Int) throws {
        try quiet()
        let wasBusy = device.root?.user != nil
        let size = units * Self.unit
        do throws(BlockError) { try device.resize(to: size) } catch {
            guard error.kind == .unsupported || error.kind == .busy && wasBusy else {
                throw Mismatch("resizing to \(size) failed: \(error)")
            }
            return count("resize refused")
        }
        guard device.root?.user == nil else { throw Mismatch("resized under a job") }
        disk.resize(to: size)
        limitBitmap()
        count("resize")
        try quiet()
    }

    private func snapshot(_ action: LiveSnapshot, _ name: String) throws {
        try quiet()
        let node = try root()
        let isKnown = snapshots[name] != nil
        guard node.format?.asSnapshotCapable != nil, isKnown == (action != .create) else { return }
        let wasBusy = node.user != nil
        do throws(BlockError) {
            switch action {
            case .create: try node.createSnapshot(SnapshotInfo(id: "", name: name, virtualSize: disk.size))
            case .apply: try node.applySnapshot(name)
            case .delete: try node.deleteSnapshot(named: name)
            }
        } catch {
            // A snapshot of another size cannot be applied.
            let mayRefuse = action == .apply && error.kind == .unsupported
            guard error.kind == .busy && wasBusy || mayRefuse else {
                throw Mismatch("snapshot \(action) failed: \(error)")
            }
            return count("snapshot refused")
        }
        switch action {
        case .create: snapshots[name] = disk
        case .apply:
            disk = snapshots[name] ?? disk
            limitBitmap()
        case .delete: snapshots[name] = nil
        }
        count("snapshot \(action)")
        try quiet()
    }

    private func overlayFormat(_ choice: Int) throws -> String {
        let below = try root().driverName
        if ["vmdk", "vhdx"].contains(below), choice % 2 == 0 { return below }
        return ["qcow2", "qcow2", "qcow2", "qed", "qcow2", "qcow"][choice % 6]
    }

    private func protect() throws {
        try endJobs()
        try quiet()
        let node = try root()
        try node.reopen(readOnly: true)
        try quiet()
        try node.reopen(readOnly: false)
        count("protect")
        try quiet()
    }

    // MARK: Bitmaps

    /// Bytes that a smaller size has cut off are not compared.
    private func limitBitmap() {
        guard let known = bitmap else { return }
        bitmap?.size = min(known.size, disk.size)
    }

    private func toggleBitmap() throws {
        try quiet()
        guard let (bits, node, before, size) = bitmap else {
            let node = try root()
            let bits = try node.addBitmap(named: nil, granularity: 4096)
            bitmap = (bits, node, disk, disk.size)
            return
        }
        bitmap = nil
        guard node === device.root else { return }
        for offset in stride(from: 0, to: size, by: 4096) {
            let range = offset..<min(offset + 4096, size)
            guard disk.read(range) != before.read(range) else { continue }
            guard let run = bits.nextRun(from: offset), run.lowerBound < range.upperBound else {
                throw Mismatch("the bitmap has no mark for the change at \(offset)")
            }
        }
        try node.removeBitmap(bits)
    }
}

extension LiveStep {
    /// Whether it does nothing without a job.
    fileprivate var isOfJob: Bool {
        switch self {
        case .pause, .resume, .speed, .cancel, .complete: true
        default: false
        }
    }
}
