/// Cylinders, heads and sectors per track, from which Virtual PC computes the size of a disk.
struct VhdGeometry: Sendable, Equatable {
    var cylinders: Int
    var heads: Int
    var sectorsPerTrack: Int

    var sectors: Int { cylinders * heads * sectorsPerTrack }

    /// The largest geometry; it stands for a disk of at least that size.
    static let largest = VhdGeometry(cylinders: 65535, heads: 16, sectorsPerTrack: 255)

    /// The geometry for a disk of that many sectors; it holds at most as many (appendix of the
    /// specification).
    init(of sectors: Int) {
        let total = min(sectors, Self.largest.sectors)
        if total >= 65535 * 16 * 63 {
            self.init(cylinders: total / 255 / 16, heads: 16, sectorsPerTrack: 255)
            return
        }
        var tracks = total / 17
        self.init(cylinders: 0, heads: max(4, (tracks + 1023) / 1024), sectorsPerTrack: 17)
        // The appendix tries 31 sectors per track first, then 63.
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

    /// The smallest geometry by the appendix's method that holds `sectors`; `nil` when there is none.
    static func holding(_ sectors: Int) -> VhdGeometry? {
        guard sectors < largest.sectors else { return nil }
        var wanted = sectors
        // Rounding down loses less than a cylinder: 16 heads with 255 sectors each.
        while wanted <= sectors + 2 * 16 * 255 {
            let geometry = VhdGeometry(of: wanted)
            // The largest geometry would make programs use the stated size.
            if geometry == largest { return nil }
            if geometry.sectors >= sectors { return geometry }
            wanted += 1
        }
        return nil
    }
}
