/// All formats, filters and protocols that a program knows.
public struct DriverRegistry: Sendable {
    /// The formats, in the order in which they are listed. `raw` is last: it takes anything.
    public let formats: [any FormatDriver.Type]
    /// The filters that options can ask for.
    public let filters: [any OpenableFilter.Type]
    public let protocols: [ProtocolEntry]

    /// How many bytes of a file's start the formats get to see when probing.
    public static let probeBytes = 2048
    /// How many bytes of its end they get to see.
    public static let probeTailBytes = 1024

    public init(
        formats: [any FormatDriver.Type], filters: [any OpenableFilter.Type] = [],
        protocols: [ProtocolEntry]
    ) {
        self.formats = formats
        self.filters = filters
        self.protocols = protocols
    }

    /// The same with another entry in the place of the protocol of its name.
    public func replacing(_ entry: ProtocolEntry) -> DriverRegistry {
        let protocols = protocols.map { $0.name == entry.name ? entry : $0 }
        return DriverRegistry(formats: formats, filters: filters, protocols: protocols)
    }

    /// The format with that name or alias.
    public func format(named name: String) -> (any FormatDriver.Type)? {
        formats.first { $0.name == name || $0.aliases.contains(name) }
    }

    /// The name by which other programs know the format, for a name or an alias; unknown names as they are.
    public func canonicalName(_ name: String) -> String { format(named: name)?.name ?? name }

    /// The error for a name that is no format and no protocol, with what may have been meant.
    ///
    /// - Parameter what: `Unknown driver` or the like.
    public func unknown(_ what: String, _ name: String, path: String? = nil) -> BlockError {
        let known =
            formats.flatMap { [$0.name] + $0.aliases } + protocols.map(\.name) + filters.map { $0.name }
        return BlockError(
            .unsupported, "\(what) '\(name)'", path: path, hint: NearestName.hint(name, among: known))
    }

    /// Whether this is the name of a driver, of this program or of QEMU 10.2, which an image may state as the
    /// format of its backing file though it cannot be opened here.
    public func isDriverName(_ name: String) -> Bool {
        format(named: name) != nil || isBelowFormats(name) || Self.otherDrivers.contains(name)
    }

    /// Whether this is the name of a protocol or a filter.
    func isBelowFormats(_ name: String) -> Bool {
        protocolEntry(named: name) != nil || filters.contains { $0.name == name }
    }

    /// The filter of that name; where no driver is named, the one that the scheme of a file name asks for.
    func filter(named name: String?, orBy filename: String?) -> (any OpenableFilter.Type)? {
        if let name { return filters.first { $0.name == name } }
        guard let scheme = filename.flatMap(Self.scheme(of:)) else { return nil }
        return filters.first { $0.schemes.contains { $0.utf8.elementsEqual(scheme.utf8) } }
    }

    /// QEMU's names for drivers that are not here, or not under this name.
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

    /// The format that is surest of `header`; of equals the first.
    public func probe(_ header: RawSpan, filename: String) -> (any FormatDriver.Type)? {
        surest { $0.probe(header, filename: filename) }
    }

    /// The format that is surest of a file's end; of equals the first.
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
    /// A guest may write anything at the end of a file, or at the start of one whose format is known by its
    /// end: where the two disagree, neither is believed.
    /// - Throws: `wrongFormat`; what reading throws.
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

    /// Refuses a file that is named like images that are known by their end, and lacks that end: most likely
    /// it is an incomplete download, whose bytes are no raw disk.
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

    /// The format that takes anything, and whose images a guest can turn into another format's.
    public var fallback: (any FormatDriver.Type)? { formats.last }

    /// Splits `scheme:rest`. `nil` for plain file names, among them those with a slash before the colon.
    public static func scheme(of filename: String) -> Substring? {
        guard let colon = filename.utf8.firstIndex(of: UInt8(ascii: ":")) else { return nil }
        let scheme = filename[..<colon]
        return scheme.utf8.contains(UInt8(ascii: "/")) || scheme.isEmpty ? nil : scheme
    }

    /// The protocol that serves `filename`, and the name to hand to it.
    ///
    /// - Throws: `unsupported` for a scheme that no protocol has.
    public func resolve(_ filename: String) throws(BlockError) -> (entry: ProtocolEntry, name: String) {
        if let scheme = Self.scheme(of: filename) {
            guard let entry = protocols.first(where: { $0.schemes.contains(String(scheme)) }) else {
                throw BlockError(.unsupported, "Unknown protocol '\(scheme)'", path: filename)
            }
            guard entry.name == "file" else { return (entry, filename) }
            let rest = FileNames.withoutFileScheme(filename)
            // Without the prefix the name must still be one of a file.
            return (entry, Self.scheme(of: rest) == nil ? rest : "./" + rest)
        }
        guard let entry = protocolEntry(named: "file") else {
            throw BlockError(.unsupported, "Unknown protocol 'file'", path: filename)
        }
        return (entry, filename)
    }
}
