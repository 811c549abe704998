import BlockCore

/// The commands that open and close an image, or concern all of it.
enum IoFiles {
    static func open(_ shell: IoShell, _ call: IoCall) throws {
        let options = try call.options("Cd:i:kno:rst:U", shell.complainPlainly)
        var opening = IoShell.Opening()
        opening.isTemporary = options.has("s")
        opening.settings.readOnly = options.has("r")
        opening.settings.copyOnRead = options.has("C")
        opening.settings.forceShare = options.has("U")
        let access = IoAccess(
            cache: options.values["t"], passesCache: options.has("n"), discard: options.values["d"],
            engine: options.values["i"], isNative: options.has("k"))
        try access.apply(to: &opening.settings)
        guard options.operands.count <= 1 else { throw IoFailure.usage }
        let path = options.operands.first
        let list = try OptionTree.parse(options.values["o"] ?? "")
        guard path != nil || !list.isEmpty else { throw IoFailure.usage }
        if shell.node != nil { throw IoFailure.complaint("file open already, try 'help close'", hint: nil) }
        if let path {
            opening.name = ImageName(path)
            opening.name?.openOptions = list
        } else {
            opening.name = ImageName(options.values["o"] ?? "", isOptions: true)
        }
        try shell.open(opening)
    }

    static func reopen(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let options = try call.options("c:o:rw", shell.complainPlainly)
        guard options.operands.isEmpty else { throw IoFailure.usage }
        if options.has("r") && options.has("w") {
            throw IoFailure.complaint("Only one -r/-w option may be given", hint: nil)
        }
        let cache = try options.values["c"].map { name throws(IoFailure) in try IoAccess.cacheMode(name) }
        let list = try OptionTree.parse(options.values["o"] ?? "")
        let readOnly = options.has("r") ? true : options.has("w") ? false : node.isReadOnly
        try check(list, options, shell)
        shell.requests.waitForAll()
        shell.printEndedReports()
        guard cache != nil || !list.isEmpty else {
            try node.reopen(readOnly: readOnly)
            return shell.noteMode(readOnly: readOnly)
        }
        try shell.reopen { opening in
            opening.settings.readOnly = readOnly
            if let cache { opening.settings.cache = cache }
            guard let old = opening.name?.openOptions else { return }
            opening.name?.openOptions =
                node.format.map { type(of: $0).joined(list, over: old) } ?? old.changed(by: list)
        }
    }

    /// Refuses options that `reopen` cannot change, and those that set one thing twice.
    private static func check(_ list: OptionTree, _ options: IoOptions, _ shell: IoShell) throws(IoFailure) {
        let setsMode = options.has("r") || options.has("w")
        for key in list.keys {
            let last = key.split(separator: ".").last.map(String.init) ?? key
            if ["driver", "filename", "file", "backing"].contains(last) {
                throw .complaint("Cannot change the option '\(last)'", hint: nil)
            }
            if key == "read-only" && setsMode {
                throw .complaint("Cannot set both -r/-w and 'read-only'", hint: nil)
            }
            if key.hasPrefix("cache.") && options.has("c") {
                throw .complaint("Cannot set both -c and the cache options", hint: nil)
            }
        }
        // A read-only image was opened without a temporary file that could take writes.
        let opening = shell.opening
        guard opening.isTemporary, opening.settings.readOnly else { return }
        if options.has("w") || list["read-only"] != nil {
            throw .complaint("A temporary snapshot that was opened read-only stays so", hint: nil)
        }
    }

    static func close(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws { try shell.close() }

    static func flush(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        try disk.flush()
        shell.printEndedReports()
    }

    static func discard(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("Cq", shell.complainPlainly)
        let span = try options.range()
        let change = IoChange(IoRequest("discard", span, options, failure: "discard failed")) {
            () throws(BlockError) in try disk.discard(at: span.offset, count: span.count)
        }
        try shell.perform(disk) { change.outcome() }
    }

    static func truncate(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("m:", shell.complainPlainly)
        var preallocation = Preallocation.off
        if let name = options.values["m"] {
            guard let named = Preallocation(rawValue: name) else {
                throw IoFailure.complaint("Invalid preallocation mode '\(name)'", hint: nil)
            }
            preallocation = named
        }
        guard options.operands.count == 1 else { throw IoFailure.usage }
        let size = try IoOptions.size(options.operands[0])
        let mode = preallocation
        guard shell.requestsAreHeld(in: disk) else {
            return try disk.resize(to: size, preallocation: mode)
        }
        let quiet = IoRequest("", IoSpan(), IoOptions(flags: ["q"]), failure: "truncate failed")
        let change = IoChange(quiet) { () throws(BlockError) in
            try disk.resize(to: size, preallocation: mode)
        }
        try shell.perform(disk) { change.outcome() }
    }

    static func length(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        shell.print(IoReport.size(try disk.length()))
    }

    static func info(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let info = try node.unfiltered.format?.describe() ?? FormatInfo()
        shell.print("format name: \(node.driverName)")
        shell.print("cluster size: \(IoReport.size(info.clusterSizeBytes ?? 0))")
        shell.print("vm state offset: \(IoReport.size(info.vmStateOffset ?? 0))")
        guard node.filter == nil, let specific = info.specific, !specific.isEmpty else { return }
        shell.print("Format specific information:")
        shell.terminal.print(InfoText.fields(specific, indent: 4))
    }

    // MARK: Allocation

    static func map(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let end = try node.length()
        var offset = 0
        while offset < end {
            let run: (isAllocated: Bool, length: Int)
            do throws(BlockError) { run = try allocatedRun(node, offset, end) } catch {
                throw error.prefixed("Failed to get allocation status")
            }
            let state = run.isAllocated ? "    allocated" : "not allocated"
            let place = "\(IoReport.size(offset)) (0x\(String(offset, radix: 16)))"
            shell.print(
                "\(IoReport.size(run.length)) (0x\(String(run.length, radix: 16))) bytes \(state) "
                    + "at offset \(place)")
            offset += run.length
        }
    }

    static func allocation(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let start = try IoOptions.size(call.arguments[0])
        let count = call.arguments.count > 1 ? try IoOptions.size(call.arguments[1]) : 512
        let length = try node.length()
        let end = start < length ? start + min(count, length - start) : start
        var (offset, sum) = (start, 0)
        while offset < end {
            let run = try allocatedRun(node, offset, end)
            if run.isAllocated { sum += run.length }
            offset += run.length
        }
        shell.print("\(sum)/\(end - start) bytes allocated at offset \(IoReport.size(start))")
    }

    /// The run at `start` that is allocated in this layer as a whole, or not at all.
    private static func allocatedRun(
        _ node: BlockNode, _ start: Int, _ end: Int
    ) throws(BlockError) -> (isAllocated: Bool, length: Int) {
        var offset = start
        var state: Bool?
        while offset < end {
            let extent = try node.layerExtent(at: offset, limit: end - offset)
            let isAllocated = extent.status != .unallocated
            if let state, state != isAllocated { break }
            state = isAllocated
            offset += extent.length
        }
        return (state ?? false, offset - start)
    }
}
