import BlockCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// `snapshot`: lists, takes, applies and deletes snapshots inside an image.
struct SnapshotCommand: ImageCommand {
    static let spec = CommandSpec(
        "snapshot", "List, take, apply or delete snapshots inside an image", operands: "FILE",
        options: table,
        notes: ["--output=json is for the list, and Platter's own."])

    private let source: SourceOptions
    private let list: Bool
    private let create: String?
    private let apply: String?
    private let delete: String?
    private let forceShare: Bool
    private let quiet: Bool
    private let output: String?
    private let operands: [String]

    init(_ options: inout OptionReader) {
        source = SourceOptions(&options)
        list = options.flag("l", "list", "List the snapshots (the default)")
        create = options.value("c", "create", "SNAPSHOT", "Take a snapshot of this name")
        apply = options.value("a", "apply", "SNAPSHOT", "Go back to this snapshot, given by ID or name")
        delete = options.value("d", "delete", "SNAPSHOT", "Delete this snapshot, given by ID or name")
        forceShare = options.forceShare()
        quiet = options.quiet()
        output = options.output()
        operands = options.operands
    }

    private enum Action {
        case list
        case create(String)
        case apply(String)
        case delete(String)
    }

    /// The limit on names in bytes of UTF-8: other programs cut longer ones.
    private static let maximumNameBytes = 255

    func run(_ context: CommandContext) throws -> Int32 {
        let output = try OutputFormat(option: output)
        let action = try action()
        let image = try ImageName(try context.oneFile(operands), source)
        var settings = OpenSettings(readOnly: false, forceShare: forceShare)
        if case .list = action {
            settings.readOnly = true
            settings.withoutBacking = true
        }
        return try context.closing(try context.open(image, settings: settings)) { node in
            switch action {
            case .list: try list(node, output, context)
            case .create(let name): try create(name, node)
            case .apply(let name): try apply(name, node)
            case .delete(let name): try delete(name, node)
            }
            return 0
        }
    }

    private func action() throws(CommandFailure) -> Action {
        var actions: [Action] = list ? [.list] : []
        if let create { actions.append(.create(create)) }
        if let apply { actions.append(.apply(apply)) }
        if let delete { actions.append(.delete(delete)) }
        guard actions.count <= 1 else { throw .usage("Cannot mix '-l', '-a', '-c', '-d'") }
        return actions.first ?? .list
    }

    private func list(_ node: BlockNode, _ output: OutputFormat, _ context: CommandContext) throws {
        let snapshots = try (node.unfiltered.format as? any SnapshotCapable)?.snapshots() ?? []
        switch output {
        case .human:
            if !snapshots.isEmpty { context.terminal.print(SnapshotTable.text(snapshots)) }
        case .json: context.terminal.print(JSONWriter.text(.list(snapshots.map(\.json))))
        }
    }

    private func create(_ name: String, _ node: BlockNode) throws {
        let failed = "Could not create snapshot '\(name)'"
        guard name.rawBytes.count <= Self.maximumNameBytes else {
            throw CommandFailure("\(failed): The name has more than \(Self.maximumNameBytes) bytes")
        }
        guard node.unfiltered.format is any SnapshotCapable else {
            throw CommandFailure("\(failed): Operation not supported")
        }
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        // Other programs store microseconds. The count of instructions is 0, since no machine has run.
        let info = SnapshotInfo(
            id: "", name: name, dateSeconds: Int(time.tv_sec),
            dateNanoseconds: Int(time.tv_nsec) / 1000 * 1000, instructionCount: 0)
        do throws(BlockError) { try node.createSnapshot(info) } catch { throw error.prefixed(failed) }
    }

    private func apply(_ name: String, _ node: BlockNode) throws {
        let failed = "Could not apply snapshot '\(name)'"
        guard node.unfiltered.format is any SnapshotCapable else {
            throw CommandFailure("\(failed): Block driver does not support snapshots")
        }
        do throws(BlockError) { try node.applySnapshot(name) } catch {
            if error.kind == .notFound {
                throw CommandFailure("\(failed): Failed to load snapshot: No such file or directory")
            }
            throw error.prefixed(failed)
        }
    }

    private func delete(_ name: String, _ node: BlockNode) throws {
        let failed = "Could not delete snapshot '\(name)'"
        guard node.unfiltered.format is any SnapshotCapable else {
            throw CommandFailure("\(failed): snapshot not found")
        }
        do throws(BlockError) { try node.deleteSnapshot(named: name) } catch {
            if error.kind == .notFound { throw CommandFailure("\(failed): snapshot not found") }
            throw error.prefixed(failed)
        }
    }
}
