import BlockCore

/// How filters that options can ask for open the storage below them.
enum FilterOpening {
    /// Opens what the options below `key.` describe, or the file of that name.
    ///
    /// - Throws: `invalidArgument` when neither says what; what opening throws.
    static func below(
        _ key: String, filename: String = "", _ options: inout OptionTree, _ settings: OpenSettings
    ) throws(BlockError) -> any ProtocolDriver {
        var own = options.takeSubtree(key)
        if let name = options.take(key) { own["filename"] = name }
        let name = filename.isEmpty ? own.take("filename") ?? "" : filename
        let registry = DriverRegistry(formats: [], protocols: StandardProtocols.all)
        let found = try entry(own.take("driver"), name, registry)
        guard !(name.isEmpty && found.entry.needsFilename) else {
            throw BlockError(.invalidArgument, "A block device must be specified for \"\(key)\"")
        }
        let driver = try found.entry.open(found.name, &own, settings)
        if let unknown = own.keys.first {
            driver.close()
            throw BlockError(
                .invalidArgument,
                "Block protocol '\(found.entry.name)' doesn't support the option '\(unknown)'")
        }
        return driver
    }

    /// What the storage is called that ``below(_:filename:_:_:)`` opens.
    static func naming(_ key: String, filename: String, _ options: OptionTree) -> NodeNaming {
        var options = options
        var own = options.takeSubtree(key)
        if let name = options.take(key) { own["filename"] = name }
        let name = filename.isEmpty ? own.take("filename") ?? "" : filename
        let registry = DriverRegistry(formats: [], protocols: StandardProtocols.all)
        guard let found = try? entry(own.take("driver"), name, registry) else {
            return NodeNaming(plain: name, driver: "file")
        }
        return found.entry.naming(found.name, own)
    }

    /// The file name that was given; the opener makes one up (`throttle://`) where options say everything.
    static func name(_ filename: String, for filter: String) -> String {
        filename == "\(filter)://" ? "" : filename
    }

    private static func entry(
        _ driver: String?, _ filename: String, _ registry: DriverRegistry
    ) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        guard let driver else { return try registry.resolve(filename) }
        guard let entry = registry.protocolEntry(named: driver) else {
            throw registry.unknown("Unknown driver", driver)
        }
        return (entry, filename)
    }
}

extension ThrottleDriver {
    /// `driver=throttle,file.filename=…,limits.bps-total=…,limits.iops-total=…`
    public static let entry = ProtocolEntry(
        name: name, needsFilename: false,
        open: { (filename, options, settings) throws(BlockError) -> any ProtocolDriver in
            let bytes = try options.takeSize("limits.bps-total") ?? 0
            let operations = try options.takeSize("limits.iops-total") ?? 0
            return ThrottleDriver(
                over: try FilterOpening.below(
                    "file", filename: FilterOpening.name(filename, for: name), &options, settings),
                bytes: Throttle(unitsPerSecond: bytes), operations: Throttle(unitsPerSecond: operations))
        }, confines: true,
        naming: { (filename, options) in
            let below = FilterOpening.naming(
                "file", filename: FilterOpening.name(filename, for: name), options)
            let own = options.keys.filter { $0 != "file" && !$0.hasPrefix("file.") }
            return NodeNaming(filter: name, options, inName: own, over: below, as: "file")
        })
}
