/// Cylinders, heads and sectors a track, by which Virtual PC takes the size of a disk.
struct VhdGeometry: Sendable, Equatable {
    var cylinders: Int
    var heads: Int
    var sectorsPerTrack: Int

    var sectors: Int { cylinders * heads * sectorsPerTrack }

    /// The largest one; it says that the disk is as large or larger.
    static let largest = VhdGeometry(cylinders: 65535, heads: 16, sectorsPerTrack: 255)

    /// The geometry of a disk of that many sectors, which holds at most as many (appendix of the
    /// specification).
    init(of sectors: Int) {
        let total = min(sectors, Self.largest.sectors)
        if total >= 65535 * 16 * 63 {
            self.init(cylinders: total / 255 / 16, heads: 16, sectorsPerTrack: 255)
            return
        }
        var tracks = total / 17
        self.init(cylinders: 0, heads: max(4, (tracks + 1023) / 1024), sectorsPerTrack: 17)
        // First the small tracks of the first disks, then those of later ones.
        for sectorsPerTrack in [31, 63] where tracks >= heads * 1024 || heads > 16 {
            heads = 16
            self.sectorsPerTrack = sectorsPerTrack
            tracks = total / sectorsPerTrack
        }
        cylinders = tracks / heads
    }

    init(cylinders: Int, heads: Int, sectorsPerTrack: Int) {
        self.cylinders = cylinders
        self.heads = heads
        self.sectorsPerTrack = sectorsPerTrack
    }

    /// The smallest geometry of which the appendix's method says that it holds `sectors`; `nil` for disks
    /// that no geometry can hold.
    static func holding(_ sectors: Int) -> VhdGeometry? {
        guard sectors < largest.sectors else { return nil }
        var wanted = sectors
        // Rounding down loses less than a cylinder of 16 heads with 255 sectors each.
        while wanted <= sectors + 2 * 16 * 255 {
            let geometry = VhdGeometry(of: wanted)
            // The largest one would say that the disk is as large as is stated.
            if geometry == largest { return nil }
            if geometry.sectors >= sectors { return geometry }
            wanted += 1
        }
        return nil
    }
}
