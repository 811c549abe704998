import BlockCore

extension Qcow2State {
    /// Replaces header, extensions and backing name, durably; the name moves when the extensions need its
    /// place.
    ///
    /// A change within one sector is a single write, after a barrier: old or new after a crash.
    ///
    /// Order of writes otherwise, with a barrier after each step:
    /// 1. All earlier writes, among them everything that the new header refers to.
    /// 2. The name, to its new place.
    /// 3. A shorter header, which ends within the first sector: without the names of feature bits, and with
    ///    the new extensions, or, where these are too long, the old ones.
    /// 4. All sectors but the first.
    /// 5. The first sector.
    ///
    /// Only where neither the new nor the old extensions fit into the first sector, step 3 is left out and a
    /// crash can tear them.
    func rewriteHeader(to target: Qcow2Header) throws(BlockError) {
        try barrier()
        let old = try file.readBytes(at: 0, count: layout.clusterSize)
        let (new, name) = try place(target, old)
        let image = Self.cluster(new, name, over: old)
        let changed = Self.changedSectors(old, image)
        guard changed.count > 1 else {
            try write(image, sectors: changed)
            header = new
            return
        }
        if let bridge = Self.bridge(from: header, to: new) {
            if new.backingOffset + name.count > Qcow2.sectorBytes {
                try file.write(name.span.bytes, at: new.backingOffset)
                try barrier()
            }
            try write(Self.cluster(bridge, name, over: old), sectors: 0..<1)
            // The file has the name at its new place from here on.
            header = bridge
        }
        try write(image, sectors: 1..<changed.upperBound)
        try write(image, sectors: 0..<1)
        header = new
    }

    /// A header that fits into the first sector, with the backing name at its new place.
    private static func bridge(from old: Qcow2Header, to new: Qcow2Header) -> Qcow2Header? {
        var candidates = [new]
        if old.backing == new.backing {
            var kept = old
            kept.backingOffset = new.backingOffset
            kept.backingNameBytes = new.backingNameBytes
            candidates.append(kept)
        }
        for var header in candidates {
            let bitmaps = header.extensions.filter { $0.type == Qcow2.ExtensionType.bitmaps }
            let others = header.extensions.filter {
                $0.type != Qcow2.ExtensionType.bitmaps && $0.type != Qcow2.ExtensionType.featureNames
            }
            header.extensions = bitmaps + others
            if header.bytesWithExtensions().count <= Qcow2.sectorBytes { return header }
        }
        return nil
    }

    /// The header with a place for its backing name, and the name as it is stored.
    private func place(
        _ target: Qcow2Header, _ old: [UInt8]
    ) throws(BlockError) -> (header: Qcow2Header, name: [UInt8]) {
        var new = target
        // A stale offset of a name would end the extensions for readers.
        if new.backing == nil { (new.backingOffset, new.backingNameBytes) = (0, 0) }
        let names = [Qcow2.ExtensionType.featureNames]
        if new.bytesWithExtensions().count > layout.clusterSize {
            new.extensions.removeAll { names.contains($0.type) }
        }
        guard new.bytesWithExtensions().count <= layout.clusterSize else {
            throw BlockError(
                .limit, "The header extensions do not fit into the header cluster", path: file.filename)
        }
        guard let backing = new.backing else { return (new, []) }
        let isKept = header.backing?.filename.isSameName(as: backing.filename) == true
        let place = header.backingOffset..<header.backingOffset + header.backingNameBytes
        // A name that is not UTF-8 must keep its bytes.
        let name =
            isKept && place.upperBound <= old.count ? Array(old[place]) : backing.filename.rawBytes
        if isKept && new.bytesWithExtensions().count <= place.lowerBound {
            return (new, name)
        }
        try new.placeBackingName(
            avoiding: header.backing == nil ? nil : place, behind: header.bytesWithExtensions().count)
        new.backingNameBytes = name.count
        return (new, name)
    }

    /// The header cluster with the new header and name.
    private static func cluster(_ header: Qcow2Header, _ name: [UInt8], over old: [UInt8]) -> [UInt8] {
        var image = old
        let bytes = header.bytesWithExtensions()
        image.replaceSubrange(0..<bytes.count, with: bytes)
        if !name.isEmpty {
            image.replaceSubrange(header.backingOffset..<header.backingOffset + name.count, with: name)
        }
        return image
    }

    /// The sectors from the first to the last one that differ.
    private static func changedSectors(_ old: [UInt8], _ new: [UInt8]) -> Range<Int> {
        guard let first = old.indices.first(where: { old[$0] != new[$0] }),
            let last = old.indices.last(where: { old[$0] != new[$0] })
        else { return 0..<0 }
        return first / Qcow2.sectorBytes..<last / Qcow2.sectorBytes + 1
    }

    private func write(_ image: [UInt8], sectors: Range<Int>) throws(BlockError) {
        guard !sectors.isEmpty else { return }
        let range = sectors.lowerBound * Qcow2.sectorBytes..<sectors.upperBound * Qcow2.sectorBytes
        try file.write(Array(image[range]).span.bytes, at: range.lowerBound)
        try barrier()
    }
}

extension Qcow2Header {
    /// Sets the data of an extension, or removes it. A new one is put first: into the first sector, which
    /// changes atomically.
    mutating func setExtension(_ type: UInt32, to data: [UInt8]?) {
        guard let data else { return extensions.removeAll { $0.type == type } }
        if let index = extensions.firstIndex(where: { $0.type == type }) {
            extensions[index].data = data
            // Each type may occur once.
            let rest = extensions[(index + 1)...].filter { $0.type != type }
            extensions.replaceSubrange((index + 1)..., with: rest)
        } else {
            extensions.insert(Extension(type: type, data: data), at: 0)
        }
    }
}
