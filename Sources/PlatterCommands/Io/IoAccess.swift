import BlockCore

/// How requests reach an image's file, as the options of `io` and of its command `open` ask for it.
struct IoAccess {
    /// The name of a cache mode: `-t`.
    var cache: String?
    /// Whether requests go past the page cache: `-n`. A cache mode that is named goes first.
    var passesCache = false
    /// What discard does to the file: `-d`.
    var discard: String?
    /// The name of an engine: `-i`.
    var engine: String?
    /// Whether Linux AIO is used: `-k`. An engine that is named goes first.
    var isNative = false

    /// - Throws: ``IoFailure/complaint(_:hint:)`` for a name that there is not.
    func apply(to settings: inout OpenSettings) throws(IoFailure) {
        if passesCache { settings.cache = .none }
        if let cache { settings.cache = try Self.cacheMode(cache) }
        switch discard {
        case nil: break
        case "unmap", "on": settings.discardUnmaps = true
        case "ignore", "off": settings.discardUnmaps = false
        case let other?: throw .complaint("Invalid discard option: \(other)", hint: nil)
        }
        if isNative { settings.engine = .native }
        if let engine {
            guard let named = RequestEngine(rawValue: engine) else {
                throw .complaint("Invalid aio option: \(engine)", hint: nil)
            }
            settings.engine = named
        }
    }

    /// - Throws: ``IoFailure/complaint(_:hint:)`` for a name that is no mode's.
    static func cacheMode(_ name: String) throws(IoFailure) -> CacheMode {
        guard let mode = CacheMode(name: name) else {
            throw .complaint("Invalid cache option: \(name)", hint: nil)
        }
        return mode
    }
}
