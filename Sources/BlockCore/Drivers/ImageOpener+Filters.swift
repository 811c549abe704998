/// Opening filters.
extension ImageOpener {
    /// Opens the node below another one, or one that the user names: a protocol, a format with its backing
    /// chain, or a filter.
    ///
    /// - Parameter options: the options of this node: `driver` among them, or else the name, selects the
    ///   driver.
    /// - Throws: `denied` for a file outside the confinement of `path`; as
    ///   ``open(_:format:settings:options:)``.
    func openBelow(
        _ filename: String?, options: OptionTree, settings: OpenSettings, path: OpenPath
    ) throws(BlockError) -> BlockNode {
        if let name = options["driver"], registry.format(named: name) != nil {
            var settings = settings
            settings.declaresUseLater = false
            return try open(
                filename, format: nil, settings: settings, options: options, path: path.nested(in: filename))
        }
        if let filter = registry.filter(named: options["driver"], orBy: filename ?? options["filename"]) {
            return try open(
                filter, filename, options: options, settings: settings, path: path.nested(in: filename))
        }
        return try openProtocol(filename, options: options, settings: settings, path: path)
    }

    /// Opens a filter and the nodes below it.
    private func open(
        _ filter: any OpenableFilter.Type, _ filename: String?, options: OptionTree, settings: OpenSettings,
        path: OpenPath
    ) throws(BlockError) -> BlockNode {
        if let confinement = path.confinement, confinement.isOfOptions {
            throw confinement.denial("which names the protocol '\(filter.name)'")
        }
        var options = options
        options["driver"] = nil
        var settings = settings
        let nodeOptions = try NodeOptions(taking: &options, into: &settings, isStorage: false, nodeNames)
        let rest = options
        let node = try nodeOptions.open(settings) { (settings) throws(BlockError) in
            try openNode(filter, filename, options: rest, settings: settings, path: path)
        }
        node.name = nodeOptions.name
        return node
    }

    private func openNode(
        _ filter: any OpenableFilter.Type, _ filename: String?, options: OptionTree, settings: OpenSettings,
        path: OpenPath
    ) throws(BlockError) -> BlockNode {
        var options = options
        let name = try filter.childName(in: filename ?? options.take("filename") ?? "", &options)
        let below = options.takeSubtree(filter.childRole)
        // The option names an open node; nodes cannot be shared here.
        if let name = options.take(filter.childRole) { throw Self.noNode(name) }
        let request = FilterRequest(
            self, role: filter.childRole, name: name, options: below, settings: settings, path: path)
        let stated = options
        let driver: any FilterDriver
        do throws(BlockError) { driver = try filter.open(request, options: &options) } catch {
            request.closeOpened()
            throw error
        }
        let naming = NodeNaming(filter, stated, over: driver.children)
        let node = BlockNode(
            .filter(driver), filename: naming.filename, settings: settings, naming: naming)
        return try closingOnFailure(node) { () throws(BlockError) in
            if let unknown = options.keys.first {
                // QEMU calls a filter with names of its own a protocol.
                let message =
                    filter.schemes.isEmpty
                    ? "Block format '\(filter.name)' does not support the option '\(unknown)'"
                    : "Block protocol '\(filter.name)' doesn't support the option '\(unknown)'"
                throw BlockError(.invalidArgument, message, path: naming.filename)
            }
            return node
        }
    }
}
