import BlockCore

/// The plan of a new image, derived from the create options.
struct VmdkPlan {
    /// One file with a part of the disk.
    struct Part {
        /// The file's name in the descriptor. ``path`` is its place.
        var name: String
        var path: String
        var sectors: Int
    }

    let subformat: Vmdk.Subformat
    let sectors: Int
    var cid: UInt32
    var parentCID = Vmdk.noParent
    let backing: String?
    let hasZeroGrains: Bool
    /// The preallocation of the files' initial space.
    let preallocation: Preallocation
    private let adapter: String
    private let hardware: String
    private let tools: String
    let filename: String

    /// - Parameter uuid: the source of the first content ID.
    /// - Throws: `invalidArgument`, `unsupported`, `limit`.
    init(_ options: CreateOptions, filename: String, uuid: ImageUUID) throws(BlockError) {
        self.filename = filename
        let size = options.integer(.size) ?? 0
        sectors = size / Vmdk.sectorBytes + (size % Vmdk.sectorBytes == 0 ? 0 : 1)
        subformat = try Self.subformat(options)
        hasZeroGrains = options.flag(.zeroedGrain)
        preallocation = try options.preallocation()
        backing = options[.backingFile].flatMap { $0.isEmpty ? nil : $0 }
        adapter = options[.adapterType] ?? "ide"
        tools = options[.toolsVersion] ?? "2147483647"
        hardware = try Self.hardwareVersion(options)
        cid = VmdkDriver.cid(uuid)
        if cid >= Vmdk.noParent - 1 || cid == 0 { cid = 1 }
        try check(options)
    }

    /// The subformat that the options name.
    static func subformat(_ options: CreateOptions) throws(BlockError) -> Vmdk.Subformat {
        guard let text = options[.subformat] else { return .monolithicSparse }
        guard let subformat = Vmdk.Subformat(rawValue: text) else {
            throw BlockError(
                .invalidArgument,
                "Invalid subformat '\(text)': must be one of "
                    + Vmdk.Subformat.allCases.map(\.rawValue).joined(separator: ", "))
        }
        return subformat
    }

    private static func hardwareVersion(_ options: CreateOptions) throws(BlockError) -> String {
        let given = options[.hwVersion] ?? "undefined"
        guard given != "undefined" else { return options.flag(.compat6) ? "6" : "4" }
        guard !options.flag(.compat6) else {
            throw BlockError(.invalidArgument, "compat6 cannot be enabled with hwversion set")
        }
        return given
    }

    private func check(_ options: CreateOptions) throws(BlockError) {
        guard ["ide", "buslogic", "lsilogic", "legacyESX"].contains(adapter) else {
            throw BlockError(.invalidArgument, "Unknown adapter type: \(adapter)")
        }
        for (key, text) in [("hwversion", hardware), ("toolsversion", tools)] {
            guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else {
                throw BlockError(.invalidArgument, "Parameter '\(key)' expects a number")
            }
        }
        if subformat.isFlat {
            if backing != nil { throw BlockError(.unsupported, "Flat image can't have backing file") }
            if hasZeroGrains { throw BlockError(.unsupported, "Flat image can't enable zeroed grain") }
        }
        if let format = options[.backingFormat], backing != nil, format != VmdkDriver.name {
            throw BlockError(
                .unsupported, "Invalid backing file format: \(format). Must be \(VmdkDriver.name)")
        }
        // The name of an only file is written, but no reader needs it.
        let quoted = (backing ?? "") + (subformat.isEmbedded ? "" : filename)
        guard !quoted.contains("\""), !((backing ?? "") + filename).contains("\n") else {
            throw BlockError(.invalidArgument, "File names in a VMDK image cannot have '\"' or line feeds")
        }
        guard sectors <= Int.max >> 10 else {
            throw BlockError(.limit, "The disk is too large for a VMDK image")
        }
        guard parts.count <= Vmdk.Limit.extents else {
            throw BlockError(.limit, "A split disk cannot have more than \(Vmdk.Limit.extents) parts")
        }
        guard subformat.isFlat || header(sectors).directoryEntries <= Vmdk.Limit.directoryEntries else {
            throw BlockError(.limit, "The disk is too large for a sparse VMDK image")
        }
    }

    // MARK: Files

    /// The files with the disk's bytes. An empty disk has one.
    var parts: [Part] {
        guard subformat.isSplit else { return [part(1, sectors: sectors)] }
        let most = Vmdk.splitBytes / Vmdk.sectorBytes
        let count = max(1, (sectors - 1) / most + 1)
        return (0..<min(count, Vmdk.Limit.extents + 1)).map { index in
            part(index + 1, sectors: min(most, sectors - index * most))
        }
    }

    private func part(_ number: Int, sectors: Int) -> Part {
        Self.part(number, sectors, of: filename, subformat)
    }

    /// Part `number` of the disk whose descriptor is in `filename`.
    static func part(
        _ number: Int, _ sectors: Int, of filename: String, _ subformat: Vmdk.Subformat
    ) -> Part {
        let own = filename == "-" ? "disk.vmdk" : FileNames.lastComponent(filename)
        let folder = filename.dropLast(FileNames.lastComponent(filename).count)
        let digits = String(number)
        let padded = String(repeating: "0", count: max(0, 3 - digits.count)) + digits
        let name =
            switch subformat {
            case .monolithicSparse, .streamOptimized: own
            case .monolithicFlat: inserted("-flat", into: own)
            case .twoGbMaxExtentSparse: inserted("-s" + padded, into: own)
            case .twoGbMaxExtentFlat: inserted("-f" + padded, into: own)
            }
        return Part(name: name, path: folder + name, sectors: sectors)
    }

    /// Inserts a mark into a name: `disk.vmdk` with `-flat` is `disk-flat.vmdk`.
    private static func inserted(_ mark: String, into name: String) -> String {
        guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return name + mark }
        return name[..<dot] + mark + name[dot...]
    }

    // MARK: Contents

    /// The header of a sparse extent, with the places of its tables.
    func header(_ sectors: Int) -> VmdkSparseHeader {
        var header = VmdkSparseHeader(
            capacitySectors: sectors, bytes: [UInt8](repeating: 0, count: VmdkSparseHeader.hostedBytes))
        header.flags |= Vmdk.Flag.redundantTables
        if hasZeroGrains { header.flags |= Vmdk.Flag.zeroedGrains }
        header.version = hasZeroGrains ? 2 : 1
        if subformat == .streamOptimized {
            header.flags |= Vmdk.Flag.compressed | Vmdk.Flag.markers
            // VMware accepts compressed disks of this version only.
            header.version = 3
        }
        if subformat.isEmbedded {
            header.descriptorOffset = Vmdk.descriptorOffset
            header.descriptorBytes = Vmdk.descriptorSectors * Vmdk.sectorBytes
        }
        header.placeTables()
        return header
    }

    /// The entries of a directory at `offset`, whose tables follow it.
    static func directory(_ header: VmdkSparseHeader, at offset: Int) -> [UInt32] {
        let first = (offset + header.directoryBytes) / Vmdk.sectorBytes
        return (0..<header.directoryEntries).map { UInt32(first + $0 * header.tableSectors) }
    }

    var descriptor: VmdkDescriptor {
        let heads = adapter == "ide" ? 16 : 255
        var lines = [
            "# Disk DescriptorFile", "version=1", "CID=" + Self.hex(cid), "parentCID=" + Self.hex(parentCID),
            "createType=\"\(subformat.rawValue)\"",
        ]
        if let backing { lines.append("parentFileNameHint=\"\(backing)\"") }
        lines += ["", "# Extent description"]
        for part in parts {
            let kind: VmdkExtentLine.Kind = subformat.isFlat ? .flat : .sparse
            let line = VmdkExtentLine(
                sectors: part.sectors, kind: kind, filename: part.name, offset: subformat.isFlat ? 0 : nil)
            lines.append(line.text)
        }
        lines += [
            "", "# The Disk Data Base", "#DDB", "", "ddb.virtualHWVersion = \"\(hardware)\"",
            "ddb.geometry.cylinders = \"\(sectors / (63 * heads))\"", "ddb.geometry.heads = \"\(heads)\"",
            "ddb.geometry.sectors = \"63\"", "ddb.adapterType = \"\(adapter)\"",
            "ddb.toolsVersion = \"\(tools)\"", "",
        ]
        return VmdkDescriptor(lines: lines)
    }

    static func hex(_ cid: UInt32) -> String {
        let digits = String(cid, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}
