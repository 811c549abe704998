import BlockCore

/// `blkdebug:CONFIG:FILE`, or `driver=blkdebug,image.filename=…` with `config`, `inject-error.N.…`,
/// `set-state.N.…`, the limits (``DebugLimits``), and `take-child-perms.N` and `unshare-child-perms.N`.
extension DebugDriver {
    /// The most bytes of a file of rules that are read.
    private static let maximumConfigBytes = Int.mib(1)

    /// - Throws: `invalidArgument` for a name without a colon behind the file of rules.
    public static func childName(
        in filename: String, _ options: inout OptionTree
    ) throws(BlockError) -> String {
        guard filename.hasPrefix("\(name):") else { return filename }
        let rest = filename.dropFirst(name.count + 1)
        guard let colon = rest.utf8.firstIndex(of: UInt8(ascii: ":")) else {
            throw BlockError(
                .invalidArgument, "blkdebug requires both config file and image path", path: filename)
        }
        if colon > rest.startIndex { options["config"] = String(rest[..<colon]) }
        return String(rest[rest.utf8.index(after: colon)...])
    }

    public static func filename(over names: [String], _ options: OptionTree) -> String? {
        "\(name):\(options["config"] ?? ""):\(names.first ?? "")"
    }

    /// - Throws: `invalidArgument`, `readOnly`; as ``FilterRequest/openChild(_:)``.
    public static func open(
        _ request: FilterRequest, options: inout OptionTree
    ) throws(BlockError) -> DebugDriver {
        var rules = DebugRules()
        let config = try options.take("config").map { path throws(BlockError) in
            try text(of: path, request)
        }
        try rules.take(config: config, &options)
        var settings = request.settings
        settings.claims = try permissions("take-child-perms", &options)
        settings.forbids = try permissions("unshare-child-perms", &options)
        if settings.readOnly, !settings.claims.isDisjoint(with: [.write, .resize]) {
            throw BlockError(.readOnly, "Block node is read-only")
        }
        let child = try request.openChild(settings)
        return DebugDriver(
            over: child, rules, try DebugLimits(&options, over: child),
            ignoresFlush: settings.cache == .unsafe)
    }

    private static func permissions(
        _ key: String, _ options: inout OptionTree
    ) throws(BlockError) -> UsePermissions {
        let list = options.takeSubtree(key)
        var permissions: UsePermissions = []
        for index in list.keys.indices {
            guard let name = list[String(index)] else {
                let largest = list.keys.compactMap { Int($0) }.max() ?? 0
                throw BlockError(
                    .invalidArgument,
                    "List indices are not contiguous, saw \(list.keys.count) elements but \(largest) "
                        + "largest index")
            }
            guard let permission = UsePermissions(name: name) else {
                throw BlockError(.invalidArgument, "Parameter '\(key)' does not accept value '\(name)'")
            }
            permissions.formUnion(permission)
        }
        return permissions
    }

    private static func text(of path: String, _ request: FilterRequest) throws(BlockError) -> String {
        do throws(BlockError) {
            let bytes = try request.readFile(path, maximumBytes: maximumConfigBytes)
            return String(decoding: bytes, as: UTF8.self)
        } catch {
            guard let code = error.errno else { throw error }
            throw BlockError.system(errno: code, path: path)
                .prefixed("Could not read blkdebug config file")
        }
    }
}
