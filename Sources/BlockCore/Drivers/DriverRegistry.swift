/// All formats and protocols that a program knows.
public struct DriverRegistry: Sendable {
    /// The formats, in the order in which they are listed. `raw` is last: it takes anything.
    public let formats: [any FormatDriver.Type]
    public let protocols: [ProtocolEntry]

    /// How many bytes of a file the formats get to see when probing.
    public static let probeBytes = 2048

    public init(formats: [any FormatDriver.Type], protocols: [ProtocolEntry]) {
        self.formats = formats
        self.protocols = protocols
    }

    /// The format with that name or alias.
    public func format(named name: String) -> (any FormatDriver.Type)? {
        formats.first { $0.name == name || $0.aliases.contains(name) }
    }

    /// The protocol with that name.
    public func protocolEntry(named name: String) -> ProtocolEntry? {
        protocols.first { $0.name == name }
    }

    /// The format that is surest of `header`; of equals the first.
    public func probe(_ header: RawSpan, filename: String) -> (any FormatDriver.Type)? {
        var best: (format: any FormatDriver.Type, score: Int)?
        for format in formats {
            let score = format.probe(header, filename: filename)
            if score > (best?.score ?? 0) { best = (format, score) }
        }
        return best?.format
    }

    /// Splits `scheme:rest`. `nil` for plain file names, among them those with a slash before the colon.
    public static func scheme(of filename: String) -> Substring? {
        guard let colon = filename.firstIndex(of: ":") else { return nil }
        let scheme = filename[..<colon]
        return scheme.contains("/") || scheme.isEmpty ? nil : scheme
    }

    /// The protocol that serves `filename`, and the name to hand to it.
    ///
    /// - Throws: `unsupported` for a scheme that no protocol has.
    public func resolve(_ filename: String) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        if let scheme = Self.scheme(of: filename) {
            guard let entry = protocols.first(where: { $0.schemes.contains(String(scheme)) }) else {
                throw BlockError(.unsupported, "Unknown protocol '\(scheme)'", path: filename)
            }
            let rest = filename.dropFirst(scheme.count + 1)
            return (entry, entry.name == "file" ? String(rest) : filename)
        }
        guard let entry = protocolEntry(named: "file") else {
            throw BlockError(.unsupported, "Unknown protocol 'file'", path: filename)
        }
        return (entry, filename)
    }
}
