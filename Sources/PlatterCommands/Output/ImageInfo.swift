import BlockCore

/// The information that `info` prints about one image.
struct ImageInfo {
    var filename: String
    var format: String
    var virtualSize: Int
    /// The bytes that the files take up on the disk; `nil` where that is unknown.
    var actualSize: Int?
    var details: FormatInfo
    var snapshots: [SnapshotInfo] = []
    var backing: BackingReference?
    /// The backing file's name from the current folder.
    var fullBackingName: String?
    /// The child nodes, with the names of their roles.
    var children: [(role: String, info: ImageInfo)] = []
    /// The limits of requests; `nil` unless they are asked for.
    var limits: [InfoField]?
    /// All bitmaps of the node, where it has some in memory; empty otherwise.
    var dirtyBitmaps: [BitmapStatus] = []
    /// Whether the node has a protocol driver only.
    var isStorage = false
    /// Why nothing is known about a file that the image names; `nil` for a file that was examined.
    var isUnknownBecause: String?
    /// The files that the image names.
    var references: [FileFinding] = []

    /// Lengths are printed as whole sectors of this many bytes.
    private static let sectorBytes = 512

    /// Collects the information of an open image, and examines the files that it names without opening them.
    init(_ node: BlockNode, _ opener: ImageOpener, withLimits: Bool = false) throws(BlockError) {
        try self.init(node, withLimits: withLimits, naming: opener.findings(of: node))
    }

    /// Describes a file that an image names and that is not open.
    private init(_ finding: FileFinding) {
        filename = finding.resolvedName
        format = "file"
        virtualSize = finding.size.map { $0.length.roundedUp(to: Self.sectorBytes) ?? $0.length } ?? 0
        actualSize = finding.size?.allocated
        details = FormatInfo()
        isStorage = true
        if finding.size == nil { isUnknownBecause = finding.reason }
    }

    private init(
        _ node: BlockNode, withLimits: Bool, naming findings: [FileFinding] = []
    ) throws(BlockError) {
        references = findings
        filename = node.shownName
        format = node.driverName
        let length = try node.length()
        virtualSize = length.roundedUp(to: Self.sectorBytes) ?? length
        details = try node.unfiltered.format?.describe() ?? FormatInfo()
        isStorage = node.unfiltered.storage != nil
        if node.filter != nil {
            // The format's own fields are printed in its section.
            details.specific = nil
            details.isEncrypted = false
        }
        // A filter over one file is shown as one with it.
        for (role, child) in zip(node.childRoles, node.children) where !isStorage || node.children.count > 1 {
            children.append((role, try ImageInfo(child, withLimits: withLimits)))
        }
        for finding in findings where finding.reference.purpose != .backing {
            children.append((finding.reference.role, ImageInfo(finding)))
        }
        // The latest snapshot first, as QEMU lists them.
        children.reverse()
        if node.hidesAllocatedSize {
            actualSize = nil
        } else if isStorage {
            actualSize = node.allocatedSize()
        } else {
            // A file that may not be examined adds nothing; one whose size is unknown makes the sum unknown.
            let known = children.filter { $0.info.isUnknownBecause == nil }
            let sizes = known.compactMap(\.info.actualSize)
            actualSize = sizes.count == known.count ? sizes.reduce(0, +) : nil
        }
        if let driver = node.unfiltered.format?.asSnapshotCapable { snapshots = try driver.snapshots() }
        // Those of the image alone are among its format's fields.
        if !node.memoryBitmaps.isEmpty { dirtyBitmaps = try node.bitmapStatuses() }
        backing = node.format?.backing
        fullBackingName =
            findings.last { $0.reference.purpose == .backing }?.resolvedName
            ?? backing.map { FileNames.resolve($0.filename, relativeTo: node.filename) }
        if withLimits { limits = Self.limits(of: node) }
    }

    /// The alignment of requests to the node, in bytes.
    private static func limits(of node: BlockNode) -> [InfoField] {
        var fields: [InfoField] = []
        let alignment = max(1, (node.format == nil ? node : node.file ?? node).requestAlignment)
        if let unit = node.zeroGranularity, unit > 1 {
            fields.append(InfoField("write-zeroes-alignment", .number(unit)))
        }
        fields.append(InfoField("request-alignment", .number(alignment)))
        fields.append(InfoField("min-mem-alignment", .number(alignment)))
        if let unit = node.discardGranularity, unit > 1 {
            fields.append(InfoField("discard-alignment", .number(unit)))
        }
        fields.append(InfoField("opt-mem-alignment", .number(AlignedBuffer.alignmentBytes)))
        fields.append(InfoField("max-iov", .number(1024)))
        return fields
    }
}

/// `info` as JSON.
extension ImageInfo {
    /// The fields in qemu-img's order.
    var json: InfoValue {
        var fields: [InfoField] = []
        if let limits { fields.append(InfoField("limits", .object(limits))) }
        let nodes = children.map { role, info in
            InfoValue.object([InfoField("name", .text(role)), InfoField("info", info.json)])
        }
        fields.append(InfoField("children", .list(nodes)))
        if let format = backing?.format { fields.append(InfoField("backing-filename-format", .text(format))) }
        if !snapshots.isEmpty { fields.append(InfoField("snapshots", .list(snapshots.map(\.json)))) }
        if !dirtyBitmaps.isEmpty {
            fields.append(InfoField("dirty-bitmaps", .list(dirtyBitmaps.map(\.json))))
        }
        if isUnknownBecause == nil { fields.append(InfoField("virtual-size", .number(virtualSize))) }
        fields.append(InfoField("filename", .text(filename)))
        if let size = details.clusterSizeBytes { fields.append(InfoField("cluster-size", .number(size))) }
        fields.append(InfoField("format", .text(format)))
        if let actualSize { fields.append(InfoField("actual-size", .number(actualSize))) }
        if let specific { fields.append(InfoField("format-specific", specific)) }
        if let name = fullBackingName { fields.append(InfoField("full-backing-filename", .text(name))) }
        if details.isEncrypted { fields.append(InfoField("encrypted", .flag(true))) }
        if let name = backing?.filename { fields.append(InfoField("backing-filename", .text(name))) }
        if !isStorage { fields.append(InfoField("references", .list(references.map(Self.json)))) }
        fields.append(InfoField("dirty-flag", .flag(details.isDirty)))
        return .object(fields)
    }

    private static func json(_ finding: FileFinding) -> InfoValue {
        .object([
            InfoField("role", .text(finding.reference.role)),
            InfoField("name", .text(finding.reference.statedName)),
            InfoField("resolved", .text(finding.resolvedName)),
            InfoField("allowed", .flag(finding.isAllowed)), InfoField("why", .text(finding.reason)),
        ])
    }

    private var specific: InfoValue? {
        let data = details.specific ?? (isStorage ? [] : nil)
        return data.map { .object([InfoField("type", .text(format)), InfoField("data", .object($0))]) }
    }
}

/// `info` for people.
extension ImageInfo {
    /// The lines, each with its line feed.
    var text: String {
        let shown = { (name: String) in PrintableText.shown(name) }
        var text =
            "image: \(shown(filename))\nfile format: \(format)\nvirtual size: \(Self.both(virtualSize))\n"
        text += "disk size: \(actualSize.map(HumanSize.text) ?? "unavailable")\n"
        if details.isEncrypted { text += "encrypted: yes\n" }
        if let size = details.clusterSizeBytes { text += "cluster_size: \(size)\n" }
        if details.isDirty { text += "cleanly shut down: no\n" }
        if let backing {
            let elsewhere = fullBackingName.flatMap {
                $0.isSameName(as: backing.filename) ? nil : " (actual path: \(shown($0)))"
            }
            text += "backing file: \(shown(backing.filename))\(elsewhere ?? "")\n"
            if let format = backing.format { text += "backing file format: \(shown(format))\n" }
        }
        if !snapshots.isEmpty { text += SnapshotTable.text(snapshots) }
        if let limits { text += "Block limits:\n" + InfoText.fields(limits, indent: 4) }
        if let specific = details.specific, !specific.isEmpty {
            text += "Format specific information:\n" + InfoText.fields(specific, indent: 4)
        }
        for (role, info) in children { text += info.childText(role, path: "") }
        return text
    }

    private func childText(_ role: String, path: String) -> String {
        let name = "\(path)/\(role)"
        let file = PrintableText.shown(filename)
        var text = "Child node '\(name)':\n    filename: \(file)\n    protocol type: \(format)\n"
        if let reason = isUnknownBecause { return text + "    not opened: \(PrintableText.shown(reason))\n" }
        text += "    file length: \(Self.both(virtualSize))\n"
        text += "    disk size: \(actualSize.map(HumanSize.text) ?? "unavailable")\n"
        if let limits { text += "    Block limits:\n" + InfoText.fields(limits, indent: 8) }
        for (role, info) in children { text += info.childText(role, path: name) }
        return text
    }

    private static func both(_ bytes: Int) -> String { "\(HumanSize.text(bytes)) (\(bytes) bytes)" }
}
