import BlockCore
import BlockJobs

/// `job start`: takes the options apart, opens or makes the target, and starts the job.
struct IoJobStart {
    private let shell: IoShell
    private let disk: BlockDevice
    private let top: BlockNode
    private let type: String
    private let options: IoOptions

    init(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        guard let top = disk.root else { throw IoFailure.silent }
        var call = call
        guard !call.arguments.isEmpty else { throw IoFailure.usage }
        type = call.arguments.removeFirst()
        options = try call.options("b:B:cf:g:i:no:ps:S:t:w", shell.complainPlainly)
        (self.shell, self.disk, self.top) = (shell, disk, top)
    }

    func start() throws {
        switch type {
        case "stream": try stream()
        case "commit": try commit()
        case "mirror": try mirror()
        case "backup": try backup()
        case "create": try create()
        default: throw IoFailure.output("Unknown job type '\(type)'")
        }
    }

    private func start(_ job: any BlockJob, atEnd: @escaping @Sendable () -> Void = {}) throws {
        let speed = try options.size(of: "s") ?? 0
        try shell.jobs.start(
            job, id: options.values["i"], speed: speed, isPaused: options.has("p"), atEnd: atEnd)
    }

    // MARK: Within the chain

    private func stream() throws {
        try expect(operands: 0)
        let node = try layer("t") ?? top
        try start(StreamJob(node: node, base: try layer("b"), baseName: options.values["B"]))
    }

    private func commit() throws {
        try expect(operands: 0)
        let (node, base) = (try layer("t"), try layer("b"))
        guard let node, node !== top else {
            return try start(ActiveCommitJob(top: top, base: base, device: disk))
        }
        let overlay = top.chain.first { $0.backing === node }
        try start(
            CommitJob(
                top: node, base: base, emptiesTop: false, overlay: overlay, baseName: options.values["B"]))
    }

    /// The layer of the chain that an option names.
    private func layer(_ letter: Character) throws -> BlockNode? {
        guard let name = options.values[letter] else { return nil }
        shell.context.allow(name, of: top.filename, orFromHere: true)
        if top.filename.isSameName(as: name) { return top }
        return try ChainLookup.node(named: name, below: top)
    }

    // MARK: To another image

    private func mirror() throws {
        try expect(operands: 1)
        let sync = try named(["full": MirrorJob.Sync.full, "top": .top, "none": .none]) ?? .full
        let target = try target(isTop: options.values["S"] == "top")
        let job = MirrorJob(
            source: top, target: target, sync: sync,
            copyMode: options.has("w") ? .writeBlocking : .background,
            granularity: try options.size(of: "g"), device: disk)
        // Unless the disk goes on with it, the target is closed when the job ends.
        try startClosing(target, job)
    }

    private func backup() throws {
        try expect(operands: 1)
        let kind = options.values["S"] ?? "full"
        let known: [String: BackupJob.Sync] = ["full": .full, "top": .top, "none": .none]
        let target = try target(isTop: kind == "top")
        try startClosing(
            target,
            BackupJob(
                source: top, target: target, sync: known[kind] ?? .incremental(bitmap: kind),
                compress: options.has("c")))
    }

    private func startClosing(_ target: BlockNode, _ job: any BlockJob) throws {
        do {
            try start(job) { [disk] in if disk.root !== target { try? target.close() } }
        } catch {
            try? target.close()
            throw error
        }
    }

    private func named<Value>(_ values: [String: Value]) throws(IoFailure) -> Value? {
        guard let name = options.values["S"] else { return nil }
        guard let value = values[name] else {
            throw .output("Parameter 'sync' does not accept value '\(name)'")
        }
        return value
    }

    /// Opens the target, which is made first unless `-n` says that it exists.
    private func target(isTop: Bool) throws(BlockError) -> BlockNode {
        let name = options.operands[0]
        let format = options.values["f"] ?? (options.has("n") ? nil : top.unfiltered.driverName)
        if let format, !options.has("n") { try make(name, format, isTop: isTop) }
        shell.context.opener.policy.allow(name)
        var settings = OpenSettings(readOnly: false)
        settings.cache = top.settings.cache
        return try shell.context.openUnnamed(ImageName(name, format: format), settings)
    }

    private func make(_ name: String, _ format: String, isTop: Bool) throws(BlockError) {
        var creator = try ImageCreator(
            shell.context, filename: name, format: format, text: CreateOptionText())
        creator.isQuiet = true
        if isTop, let backing = top.backing {
            try creator.setBacking(
                FileNames.relative(backing.filename, from: name), format: backing.unfiltered.driverName)
        }
        creator.trustsBacking = true
        try creator.resolve(size: try top.length())
        let made = creator
        do throws(BlockError) { try made.create() } catch {
            made.discard()
            throw error
        }
        try made.finish()
    }

    private func create() throws {
        try expect(operands: 2)
        let context = shell.context
        let format = options.values["f"] ?? "raw"
        let name = options.operands[0]
        var values = try context.opener.createOptions(format: format, filename: name)
        try CreateOptionText(options.values["o"].map { [$0] } ?? []).apply(to: &values)
        try values.set(.size, to: String(try IoOptions.size(options.operands[1])))
        try start(CreateJob(opener: context.opener, filename: name, format: format, options: values))
    }

    private func expect(operands count: Int) throws(IoFailure) {
        if options.operands.count != count { throw .usage }
    }
}
