/// The treatment of written data that is all zeroes (`detect-zeroes`).
public enum ZeroDetection: String, Sendable {
    case off
    /// Zeroes the range as ``BlockNode/writeZeroes(at:count:flags:)`` does, keeping its space.
    case on
    /// The same, giving its space back.
    case unmap
}

/// The open options that every node has, whatever its driver.
struct NodeOptions {
    /// The most bytes of a node's name.
    private static let maximumNameBytes = 31
    /// EPERM, EACCES and EROFS, which have the same numbers on all supported systems.
    private static let refusals: Set<Int32> = [1, 13, 30]

    /// Whether to open the file read-only when the host does not allow writing.
    var fallsBackToReadOnly = false
    private var discardUnmaps: Bool?
    /// The node's name, if the user gave one; reserved while the node is open.
    private(set) var name: NodeName?

    /// Moves a node's options from the list into `settings`. These hold for its file and its backing file
    /// too, except the detection of zeroes.
    ///
    /// - Parameters:
    ///   - isStorage: whether this is a protocol's node: protocols read the cache options themselves.
    ///   - names: the names of open nodes.
    /// - Throws: `invalidArgument`.
    init(
        taking options: inout OptionTree, into settings: inout OpenSettings, isStorage: Bool,
        _ names: NodeNames
    ) throws(BlockError) {
        if try options.takeFlag("read-only") == true { settings.readOnly = true }
        if try options.takeFlag("force-share") == true { settings.forceShare = true }
        if !isStorage {
            if let direct = try options.takeFlag("cache.direct") {
                settings.cache = settings.cache.with(direct: direct)
            }
            if try options.takeFlag("cache.no-flush") == true { settings.cache = .unsafe }
        }
        fallsBackToReadOnly = try options.takeFlag("auto-read-only") == true
        if let text = options.take("discard") {
            settings.discardUnmaps = try Self.discards(text)
            discardUnmaps = settings.discardUnmaps
        }
        settings.detectZeroes = try detection(options.take("detect-zeroes"))
        if let text = options.take("node-name") {
            try Self.check(name: text)
            name = try names.take(text)
        }
    }

    private static func discards(_ text: String) throws(BlockError) -> Bool {
        switch text {
        case "unmap", "on": true
        case "ignore", "off": false
        default: throw BlockError(.invalidArgument, "Invalid discard option")
        }
    }

    private func detection(_ text: String?) throws(BlockError) -> ZeroDetection {
        guard let text else { return .off }
        guard let detection = ZeroDetection(rawValue: text) else {
            throw BlockError(.invalidArgument, "invalid parameter value: \(text)")
        }
        guard detection != .unmap || discardUnmaps == true else {
            throw BlockError(
                .invalidArgument,
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
        }
        return detection
    }

    private static func check(name: String) throws(BlockError) {
        let bytes = Array(name.utf8)
        func isLetter(_ byte: UInt8) -> Bool { (0x41...0x5A).contains(byte & 0xDF) }
        let isFine = bytes.allSatisfy { byte in
            isLetter(byte) || (0x30...0x39).contains(byte) || "-._".utf8.contains(byte)
        }
        guard let first = bytes.first, isLetter(first), isFine else {
            throw BlockError(.invalidArgument, "Invalid node-name: '\(name)'")
        }
        guard bytes.count <= maximumNameBytes else {
            throw BlockError(.invalidArgument, "Node name too long")
        }
    }

    /// Opens with these settings, or read-only when the host does not allow writing and the options ask for
    /// that.
    func open<Result>(
        _ settings: OpenSettings, _ body: (OpenSettings) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        do throws(BlockError) { return try body(settings) } catch {
            guard fallsBackToReadOnly, !settings.readOnly, Self.refusals.contains(error.errno ?? 0) else {
                throw error
            }
            var settings = settings
            settings.readOnly = true
            return try body(settings)
        }
    }
}
