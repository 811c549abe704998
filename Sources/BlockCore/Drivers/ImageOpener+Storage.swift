/// Opening the storage of images.
extension ImageOpener {
    /// Opens the storage of an image's bytes: a protocol, a filter, or another format, such as a window of a
    /// raw file.
    ///
    /// - Parameter options: the user's options below `file.`.
    /// - Throws: `denied` for a file outside the confinement of `path`; as
    ///   ``open(_:format:settings:options:)``.
    func openStorage(
        _ filename: String?, options: OptionTree, settings: OpenSettings, path: OpenPath = OpenPath()
    ) throws(BlockError) -> BlockNode {
        var settings = settings
        settings.holdsImage = true
        return try openBelow(filename, options: options, settings: settings, path: path)
    }

    /// Opens the file, device or other storage of a protocol.
    ///
    /// - Throws: as ``openBelow(_:options:settings:path:)``.
    func openProtocol(
        _ filename: String?, options: OptionTree, settings: OpenSettings, path: OpenPath
    ) throws(BlockError) -> BlockNode {
        var options = options
        let driver = options.take("driver")
        let (entry, name) = try chooseProtocol(driver, filename ?? options.take("filename") ?? "")
        try path.countFile(name)
        var settings = settings
        let nodeOptions = try NodeOptions(taking: &options, into: &settings, isStorage: true, nodeNames)
        let rest = options
        let node = try nodeOptions.open(settings) { (settings) throws(BlockError) in
            try openStorage(entry, name, options: rest, settings: settings, path.confinement)
        }
        node.name = nodeOptions.name
        return node
    }

    private func openStorage(
        _ entry: ProtocolEntry, _ path: String, options: OptionTree, settings: OpenSettings,
        _ confinement: FileConfinement?
    ) throws(BlockError) -> BlockNode {
        var options = options
        var confined = settings
        var confinement = confinement
        if confinement?.isOfOptions == true {
            guard entry.name == "file" else {
                throw confinement?.denial("which names the protocol '\(entry.name)'") ?? Self.noName(path)
            }
            confinement?.nameInOptions = path
        }
        confined.confinement = confinement
        if !entry.confines { try confinement?.checkText() }
        let naming = entry.naming(path, options)
        let storage = try entry.open(path, &options, confined)
        if let unknown = options.keys.first {
            storage.close()
            throw BlockError(
                .invalidArgument, "Block protocol '\(entry.name)' doesn't support the option '\(unknown)'",
                path: path)
        }
        return BlockNode(
            .storage(storage), filename: naming.filename, settings: settings, naming: naming)
    }

    /// The protocol for `name`, which may be empty, and the name to open with it.
    private func chooseProtocol(
        _ driver: String?, _ name: String
    ) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        // The system would cut the name at the zero byte and open another file than the policy allowed.
        guard !name.utf8.contains(0) else {
            throw BlockError(.invalidArgument, "A file name must not contain a zero byte", path: name)
        }
        guard let driver else {
            guard !name.isEmpty else { throw Self.noName("file") }
            return try registry.resolve(name)
        }
        guard let entry = registry.protocolEntry(named: driver) else {
            throw registry.unknown("Unknown driver", driver, path: name)
        }
        if !name.isEmpty { return (entry, name) }
        guard !entry.needsFilename else { throw Self.noName(entry.name) }
        return (entry, "\(entry.name)://")
    }

    private static func noName(_ driver: String) -> BlockError {
        BlockError(.invalidArgument, "The '\(driver)' block driver requires a file name")
    }
}
