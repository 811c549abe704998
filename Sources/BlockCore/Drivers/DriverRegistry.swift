/// All formats, filters and protocols that a program can open.
///
/// Thread-safe: an immutable value.
///
/// ```swift
/// let registry = DriverRegistry(
///     formats: StandardFormats.all, filters: StandardFilters.all, protocols: StandardProtocols.all)
/// let format = registry.format(named: "vhd")  // that of `vpc`, which has this alias
/// ```
public struct DriverRegistry: Sendable {
    /// The formats, in the order in which they are listed.
    ///
    /// The last one is `raw`, which opens any file.
    public let formats: [any FormatDriver.Type]
    /// The filters that open options can name.
    public let filters: [any OpenableFilter.Type]
    /// The protocols that names and open options can state.
    public let protocols: [ProtocolEntry]

    /// How many bytes of a file's start the formats probe.
    public static let probeBytes = 2048
    /// How many bytes of a file's end the formats probe.
    public static let probeTailBytes = 1024

    /// A registry of these drivers; the last format must be the one that opens any file.
    public init(
        formats: [any FormatDriver.Type], filters: [any OpenableFilter.Type] = [],
        protocols: [ProtocolEntry]
    ) {
        self.formats = formats
        self.filters = filters
        self.protocols = protocols
    }

    /// The same registry with `entry` in place of the protocol of the same name.
    public func replacing(_ entry: ProtocolEntry) -> DriverRegistry {
        let protocols = protocols.map { $0.name == entry.name ? entry : $0 }
        return DriverRegistry(formats: formats, filters: filters, protocols: protocols)
    }

    /// The format with that name or alias; `nil` for an unknown name.
    public func format(named name: String) -> (any FormatDriver.Type)? {
        formats.first { $0.name == name || $0.aliases.contains(name) }
    }

    /// The main name of the format with that name or alias; an unknown name unchanged.
    public func canonicalName(_ name: String) -> String { format(named: name)?.name ?? name }

    /// The error for a name that is no format and no protocol, with the nearest known name as a hint.
    ///
    /// - Parameter what: the start of the message, such as `Unknown driver`.
    public func unknown(_ what: String, _ name: String, path: String? = nil) -> BlockError {
        let known =
            formats.flatMap { [$0.name] + $0.aliases } + protocols.map(\.name) + filters.map { $0.name }
        return BlockError(
            .unsupported, "\(what) '\(name)'", path: path, hint: NearestName.hint(name, among: known))
    }

    /// Whether this is the name of a driver of this program or of QEMU 10.2.
    ///
    /// An image may state any of these as the format of its backing file, also one that this program cannot
    /// open.
    public func isDriverName(_ name: String) -> Bool {
        format(named: name) != nil || isBelowFormats(name) || Self.otherDrivers.contains(name)
    }

    /// Whether this is the name of a protocol or a filter.
    func isBelowFormats(_ name: String) -> Bool {
        protocolEntry(named: name) != nil || filters.contains { $0.name == name }
    }

    /// The filter of that name; without a name, the filter of the file name's scheme.
    func filter(named name: String?, orBy filename: String?) -> (any OpenableFilter.Type)? {
        if let name { return filters.first { $0.name == name } }
        guard let scheme = filename.flatMap(Self.scheme(of:)) else { return nil }
        return filters.first { $0.schemes.contains { $0.utf8.elementsEqual(scheme.utf8) } }
    }

    /// QEMU's names for drivers that this program does not have, or has under another name.
    private static let otherDrivers: Set<String> = [
        "blkdebug", "blklogwrites", "blkreplay", "blkverify", "compress", "copy-before-write", "copy-on-read",
        "ftp", "ftps", "gluster", "host_cdrom", "host_device", "http", "https", "io_uring", "iscsi", "nbd",
        "nfs", "null-aio", "null-co", "nvme", "nvme-io_uring", "preallocate", "quorum", "rbd", "replication",
        "snapshot-access", "ssh", "throttle", "virtio-blk-vfio-pci", "virtio-blk-vhost-user",
        "virtio-blk-vhost-vdpa", "vvfat",
    ]

    /// The protocol with that name.
    public func protocolEntry(named name: String) -> ProtocolEntry? {
        protocols.first { $0.name == name }
    }

    /// The format with the highest score for `header`; of equals the first; `nil` when all score 0.
    public func probe(_ header: RawSpan, filename: String) -> (any FormatDriver.Type)? {
        surest { $0.probe(header, filename: filename) }
    }

    /// The format with the highest score for a file's end; of equals the first; `nil` when all score 0.
    public func probe(tail: RawSpan, filename: String) -> (any FormatDriver.Type)? {
        surest { $0.probe(tail: tail, filename: filename) }
    }

    private func surest(_ score: (any FormatDriver.Type) -> Int) -> (any FormatDriver.Type)? {
        var best: (format: any FormatDriver.Type, score: Int)?
        for format in formats {
            let score = score(format)
            if score > (best?.score ?? 0) { best = (format, score) }
        }
        return best?.format
    }

    /// The format of the image in `file`, by its start and its end.
    ///
    /// A guest may write anything to the end of a file, or to the start of one whose format is found by its
    /// end: when start and end disagree, neither counts.
    /// - Throws: `wrongFormat`; `io`.
    public func probe(_ file: BlockNode) throws(BlockError) -> any FormatDriver.Type {
        let length = max(0, try file.length())
        let (header, tail): ([UInt8], [UInt8])
        do throws(BlockError) {
            header = try file.readBytes(at: 0, count: min(Self.probeBytes, length))
            tail = try file.readBytes(
                at: max(0, length - Self.probeTailBytes), count: min(Self.probeTailBytes, length))
        } catch {
            throw error.prefixed("Could not read image for determining its format")
        }
        let byEnd = probe(tail: tail.span.bytes, filename: file.filename)
        guard let byStart = probe(header.span.bytes, filename: file.filename) else {
            throw BlockError(.wrongFormat, "Could not determine image format", path: file.filename)
        }
        guard byStart.name == fallback?.name else {
            if byEnd == nil || byEnd?.name == byStart.name { return byStart }
            throw BlockError(
                .wrongFormat,
                "The image looks like format '\(byStart.name)' by its start and like '\(byEnd?.name ?? "")' "
                    + "by its end; name the format", path: file.filename)
        }
        if let byEnd { return byEnd }
        try checkEndIsThere(file, length)
        return byStart
    }

    /// Refuses a file whose name ends like that of an image with a footer, and which has no footer: most
    /// likely it is an incomplete download, whose bytes are no raw disk.
    private func checkEndIsThere(_ file: BlockNode, _ length: Int) throws(BlockError) {
        let name = file.filename.lowercased()
        let format = formats.first { $0.suffixesKnownByEnd.contains { name.hasSuffix($0) } }
        guard let format, let fallback else { return }
        throw BlockError(
            .wrongFormat,
            "The file is named like a \(format.name) image and does not end like one: it may be cut short "
                + "(it ends after \(length) bytes); name the format '\(fallback.name)' to take its bytes as "
                + "they are", path: file.filename)
    }

    /// The format that opens any file.
    ///
    /// A guest can turn its images into those of another format.
    public var fallback: (any FormatDriver.Type)? { formats.last }

    /// Splits `scheme:rest`.
    ///
    /// `nil` for plain file names, among them those with a slash before the colon.
    public static func scheme(of filename: String) -> Substring? {
        guard let colon = filename.utf8.firstIndex(of: UInt8(ascii: ":")) else { return nil }
        let scheme = filename[..<colon]
        return scheme.utf8.contains(UInt8(ascii: "/")) || scheme.isEmpty ? nil : scheme
    }

    /// The protocol for `filename`, and the name to open with it.
    ///
    /// - Throws: `unsupported` for an unknown scheme.
    public func resolve(_ filename: String) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        if let scheme = Self.scheme(of: filename) {
            guard let entry = protocols.first(where: { $0.schemes.contains(String(scheme)) }) else {
                throw BlockError(.unsupported, "Unknown protocol '\(scheme)'", path: filename)
            }
            guard entry.name == "file" else { return (entry, filename) }
            let rest = FileNames.withoutFileScheme(filename)
            // Without the prefix, the name must still mean a file.
            return (entry, Self.scheme(of: rest) == nil ? rest : "./" + rest)
        }
        guard let entry = protocolEntry(named: "file") else {
            throw BlockError(.unsupported, "Unknown protocol 'file'", path: filename)
        }
        return (entry, filename)
    }
}
