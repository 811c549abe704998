import BlockTestSupport

/// Files of VMDK images, byte by byte.
enum VmdkBytes {
    static func put(_ value: Int, _ count: Int, _ offset: Int, _ file: inout SparseBytes) {
        file.write(ImageBytes.number(value, bytes: count, .little), at: offset)
    }

    /// A hosted sparse extent without a descriptor: the redundant directory in sector 1, the primary one in
    /// sector 2, both with room for 128 tables; redundant and primary tables from sector 3 on.
    static func sparse(
        sectors: Int, grainSectors: Int = 8, hasTables: Bool = true, descriptor: String? = nil,
        grains: [Int: UInt32] = [:], flags: Int = 3
    ) -> SparseBytes {
        var file = SparseBytes()
        if flags & 0x10000 != 0 { put(1, 2, 77, &file) }
        let tables = (sectors + 128 * grainSectors - 1) / (128 * grainSectors)
        let overhead = 64
        for (offset, count, value) in [
            (0, 4, 0x564D_444B), (4, 4, flags & 4 == 0 ? 1 : 2), (8, 4, flags), (12, 8, sectors),
            (20, 8, grainSectors), (28, 8, descriptor == nil ? 0 : 40), (36, 8, descriptor == nil ? 0 : 4),
            (44, 4, 128), (48, 8, 1), (56, 8, 2), (64, 8, overhead), (73, 4, 0x0A0D_200A),
        ] {
            put(value, count, offset, &file)
        }
        if let descriptor { file.write(Array(descriptor.utf8), at: 40 * 512) }
        for table in 0..<tables where hasTables {
            put(3 + table, 4, 512 + table * 4, &file)
            put(3 + tables + table, 4, 1024 + table * 4, &file)
        }
        for (grain, sector) in grains {
            for first in [3, 3 + tables] {
                put(Int(sector), 4, (first + grain / 128) * 512 + grain % 128 * 4, &file)
            }
        }
        file.resize(to: overhead * 512)
        return file
    }

    /// A COW disk without tables, whose directory is in sector 4.
    static func cow(sectors: Int, grainSectors: Int) -> SparseBytes {
        var file = SparseBytes()
        for (offset, value) in [
            (0, 0x4457_4F43), (4, 1), (8, 3), (12, sectors), (16, grainSectors), (20, 4), (24, 128), (28, 5),
        ] {
            put(value, 4, offset, &file)
        }
        file.resize(to: 5 * 512)
        return file
    }

    static func descriptor(
        _ extents: [String], createType: String = "custom", cid: String = "1234abcd",
        parent: String? = nil
    ) -> SparseBytes {
        SparseBytes(Array(text(extents, createType: createType, cid: cid, parent: parent).utf8))
    }

    static func text(
        _ extents: [String], createType: String = "custom", cid: String = "1234abcd",
        parent: String? = nil
    ) -> String {
        let head = [
            "# Disk DescriptorFile", "version=1", "CID=\(cid)",
            "parentCID=\(parent == nil ? "ffffffff" : cid)", "createType=\"\(createType)\"",
        ]
        let more = parent.map { ["parentFileNameHint=\"\($0)\""] } ?? []
        let tail = ["", "# The Disk Data Base", "#DDB", "", "ddb.adapterType = \"ide\"", ""]
        return (head + more + ["# Extent description"] + extents + tail).joined(separator: "\n")
    }
}
