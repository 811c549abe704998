import BlockCore
import BlockTestSupport

/// A random sequence of commands and requests on twin images, with what is known of them.
struct TwinSequence {
    /// What decides which steps make sense.
    struct Shape {
        var version = 3
        var cluster = 65536
        var size = 0
        var refcountBits = 16
        var isZstd = false
        var hasSubclusters = false
        var hasDataFile = false
        var mayBeRaw = false
        /// The number of the backing file; `nil` for none.
        var backing: Int?
        var backingBytes = 0
        var snapshots: [String] = []
        /// Something was zeroed that a snapshot may have.
        var hasZeroedShared = false
        /// Some snapshot may have another size than the disk, which version 2 cannot have.
        var mixesSizes = false
        var compressed = false
        var bitmaps: [String] = []
        /// A rebase may write, and so record, more than is needed.
        var wasRebased = false
    }

    private var random: SeededRandom
    private var twins: TwinImages
    private var shape = Shape()
    private var names = 0
    private var steps: [String] = []

    private static let disk = TwinImages.name
    private static let knowsSubclusters: Bool = {
        let fixture = try? CommandFixture()
        let made = try? fixture?.platter("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "probe", "1M")
        return made?.status == 0
    }()

    init(seed: UInt64) throws {
        random = SeededRandom(seed: seed)
        twins = try TwinImages()
    }

    /// What was done, for whoever wants to do it again.
    var story: String { steps.joined(separator: "\n") }

    mutating func run() throws {
        try create()
        for _ in 0..<6 + random.number(in: 0..<7) {
            try step()
            try twins.compare()
        }
        for snapshot in shape.snapshots { try twins.compareSnapshot(snapshot) }
        try twins.check()
        try twins.compareBitmaps(withBits: !shape.wasRebased)
        try twins.compareInfo()
    }

    // MARK: Chance

    private mutating func chance(_ percent: Int) -> Bool { random.number(in: 0..<100) < percent }

    private mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[random.number(in: 0..<elements.count)]
    }

    @discardableResult
    private mutating func both(_ arguments: [String]) throws -> Bool {
        steps.append(arguments.joined(separator: " "))
        let done = try twins.command(arguments)
        if !done { steps[steps.count - 1] += "    (both refuse)" }
        return done
    }

    private mutating func mustBoth(_ arguments: [String]) throws {
        guard try both(arguments) else { throw Mismatch("both refuse \(arguments)") }
    }

    // MARK: Creating

    private mutating func create() throws {
        if chance(45) { shape.backing = try makeBase() }
        let options = createOptions()
        let below = shape.backing.map { ["-b", "base\($0).raw", "-F", "raw"] } ?? []
        let size = [8, 20, 50][random.number(in: 0..<3)] * min(shape.cluster, 65536) + pick([0, 512, 1536])
        shape.size = size
        try mustBoth(
            ["create", "-q", "-f", "qcow2", "-o", options.joined(separator: ",")] + below
                + [Self.disk, "\(size)"])
    }

    private mutating func createOptions() -> [String] {
        shape.cluster = pick([512, 1024, 4096, 4096, 65536, 65536, 1 << 18])
        if chance(25) { shape.version = 2 }
        var options = ["compat=\(shape.version == 2 ? "0.10" : "1.1")"]
        if shape.version == 3 {
            if chance(40) { shape.refcountBits = pick([1, 2, 4, 8, 32, 64]) }
            options.append("refcount_bits=\(shape.refcountBits)")
            if chance(20) { options.append("lazy_refcounts=on") }
            if chance(15) {
                shape.isZstd = true
                options.append("compression_type=zstd")
            }
            options += features()
        }
        options.append("cluster_size=\(shape.cluster)")
        if chance(12) { options += encryption() }
        // QEMU 7.2 lets the guest read noise from what it preallocates in an encrypted image.
        if shape.mayBeRaw && !twins.isEncrypted { options.append("data_file_raw=on") }
        if shape.backing == nil && !twins.isEncrypted && chance(15) {
            options.append("preallocation=\(pick(["metadata", "falloc", "full"]))")
        }
        return options
    }

    private mutating func encryption() -> [String] {
        twins.isEncrypted = true
        let secret = "encrypt.key-secret=s0"
        guard chance(65) else { return ["encrypt.format=aes", secret] }
        // QEMU 7.2 aborts over keys of 192 bits, whose stripes end inside a sector.
        let (cipher, mode) = (pick(["aes-128", "aes-256"]), pick(["xts", "cbc"]))
        let vectors = pick(["plain64", "plain", "essiv"])
        return [
            "encrypt.format=luks", secret, "encrypt.iter-time=10", "encrypt.cipher-alg=\(cipher)",
            "encrypt.cipher-mode=\(mode)", "encrypt.ivgen-alg=\(vectors)",
        ] + (vectors == "essiv" ? ["encrypt.ivgen-hash-alg=sha256"] : [])
    }

    private mutating func features() -> [String] {
        var options: [String] = []
        if Self.knowsSubclusters && chance(15) {
            shape.hasSubclusters = true
            shape.cluster = pick([16384, 65536])
            options.append("extended_l2=on")
        }
        if chance(12) {
            shape.hasDataFile = true
            options.append("data_file=data.raw")
            shape.mayBeRaw = shape.backing == nil && chance(50)
        }
        return options
    }

    /// Makes the same raw file for both, and answers its number.
    private mutating func makeBase() throws -> Int {
        names += 1
        let count = (1 + random.number(in: 0..<40)) * pick([512, 4096, 65536])
        var bytes = [UInt8](repeating: 0, count: count)
        var start = 0
        while start < count {
            let length = min(count - start, (1 + random.number(in: 0..<30)) * 4096)
            let fill = chance(30) ? 0 : UInt8(1 + random.number(in: 0..<255))
            bytes.replaceSubrange(start..<start + length, with: repeatElement(fill, count: length))
            start += length
        }
        steps.append("base\(names).raw: \(count) bytes")
        shape.backingBytes = count
        try twins.ours.write("base\(names).raw", bytes)
        try twins.theirs.write("base\(names).raw", bytes)
        return names
    }

    // MARK: Steps

    private mutating func step() throws {
        switch random.number(in: 0..<100) {
        case 0..<45: try requests()
        case 45..<60: try snapshot()
        case 60..<70: try resize()
        case 70..<85: try amend()
        case 85..<90: try rebase()
        case 90..<95: try bitmap()
        default: try commit()
        }
    }

    private mutating func requests() throws {
        var batch: [TwinImages.Request] = []
        for _ in 0..<1 + random.number(in: 0..<4) { batch += request() }
        steps.append(batch.map(\.command).joined(separator: "; "))
        try twins.perform(batch)
    }

    private mutating func request() -> [TwinImages.Request] {
        let byte = UInt8(1 + random.number(in: 0..<255))
        let clusters = shape.size / shape.cluster
        let first = random.number(in: 0..<max(1, clusters))
        let unit = first * shape.cluster..<(first + 1) * shape.cluster
        // Without a zero flag, a discarded cluster shows what is below, or stays.
        let canDiscard = clusters > 0 && !(shape.version == 2 && shape.backing != nil)
        switch random.number(in: 0..<10) {
        case 0 where canDiscard && !shape.hasDataFile && !twins.isEncrypted:
            shape.compressed = true
            // QEMU compresses only into clusters that are not allocated.
            return [.discard(unit), .compress(unit, byte)]
        case 1 where canDiscard:
            let count = min(clusters - first, 1 + random.number(in: 0..<8))
            return [.discard(unit.lowerBound..<unit.lowerBound + count * shape.cluster)]
        case 2, 3:
            if !shape.snapshots.isEmpty { shape.hasZeroedShared = true }
            return [.zero(range(), mayUnmap: chance(50))]
        default: return [.write(range(), byte)]
        }
    }

    /// Whole sectors.
    private mutating func range() -> Range<Int> {
        let sectors = shape.size / 512
        let start = random.number(in: 0..<sectors)
        let most = [4, 2 * shape.cluster / 512, 5 * shape.cluster / 512][random.number(in: 0..<3)]
        let count = min(sectors - start, 1 + random.number(in: 0..<max(1, most)))
        return start * 512..<(start + count) * 512
    }

    private mutating func snapshot() throws {
        // Narrow refcounts and data files have room for none.
        guard shape.refcountBits >= 8, !shape.hasDataFile else { return try requests() }
        let known = shape.snapshots
        switch random.number(in: 0..<3) {
        case 0 where known.count < 3:
            names += 1
            try mustBoth(["snapshot", "-c", "s\(names)", Self.disk])
            shape.snapshots.append("s\(names)")
        case 1 where !known.isEmpty:
            guard try both(["snapshot", "-a", pick(known), Self.disk]) else { return }
            shape.size = try size()
        case 2 where !known.isEmpty:
            let doomed = pick(known)
            try mustBoth(["snapshot", "-d", doomed, Self.disk])
            shape.snapshots.removeAll { $0 == doomed }
        default: try requests()
        }
    }

    private func size() throws -> Int {
        let node = try twins.open(twins.ours, readOnly: true)
        defer { try? node.close() }
        return try node.length()
    }

    /// Another size than the present one, of which QEMU refuses to make the same where there are snapshots;
    /// `nil` where none is possible.
    private mutating func newSize() -> Int? {
        let change = random.number(in: 1..<12) * pick([512, 4096, shape.cluster])
        // QEMU 7.2 does not grow a version 2 disk over a longer backing file.
        let canGrow = shape.version == 3 || shape.backingBytes <= shape.size
        let smaller = max(512, shape.size - change)
        if smaller < shape.size && !(canGrow && chance(65)) { return smaller }
        return canGrow ? shape.size + change : nil
    }

    private mutating func resize() throws {
        guard let size = newSize() else { return try requests() }
        // QEMU 7.2 preallocates clusters that were given up with what lies in them.
        let isFresh = steps.count == 1 && size > shape.size && !twins.isEncrypted
        let preallocation = isFresh && shape.backing == nil ? ["--preallocation", "metadata"] : []
        let arguments = ["resize", "-q", "-f", "qcow2", "--shrink"] + preallocation + [Self.disk, "\(size)"]
        if try both(arguments) { try settle(size) }
    }

    /// After a growth, QEMU 7.2 may show old bytes in what was the last cluster; Platter shows zeroes.
    private mutating func settle(_ size: Int) throws {
        let old = shape.size
        shape.size = size
        if old != size { shape.mixesSizes = !shape.snapshots.isEmpty }
        let end = min(size, old.roundedUp(to: shape.cluster) ?? size)
        if old < end { try twins.perform([.zero(old..<end, mayUnmap: false)]) }
    }

    /// QEMU 7.2 goes through all that a refcount table could count, used or not: minutes for large clusters.
    private var canRewriteRefcounts: Bool { shape.cluster * shape.cluster / shape.refcountBits <= 1 << 28 }

    private mutating func amend() throws {
        var options: [String] = []
        var next = shape
        if chance(40) {
            // QEMU 7.2 makes version 2 images with zstd clusters, which nobody can read, and others that
            // forget their bitmaps, or lose the zeroes of encrypted clusters; it zeroes clusters that a
            // snapshot has too; and what it refuses only in the end, it has done in part.
            let isBound =
                shape.isZstd || shape.hasDataFile || shape.hasSubclusters || !shape.bitmaps.isEmpty
                || shape.mixesSizes || twins.isEncrypted || shape.hasZeroedShared
            next.version = isBound || !(shape.refcountBits == 16 || canRewriteRefcounts) ? 3 : pick([2, 3])
            options.append("compat=\(pick(next.version == 2 ? ["0.10", "v2"] : ["1.1", "v3"]))")
        }
        if (chance(35) && canRewriteRefcounts) || (next.version == 2 && shape.refcountBits != 16) {
            // Narrow ones may fit the one image and not the other.
            let wide = !shape.snapshots.isEmpty || shape.compressed
            next.refcountBits =
                next.version == 2 ? 16 : pick(wide ? [8, 16, 32, 64] : [1, 2, 4, 8, 16, 32, 64])
            options.append("refcount_bits=\(next.refcountBits)")
        }
        let mayBeLazy = next.version == 3 || options.isEmpty
        if chance(30) { options.append("lazy_refcounts=\(mayBeLazy ? pick(["on", "off"]) : "off")") }
        if shape.hasDataFile && chance(30) { options.append("data_file_raw=off") }
        if options.isEmpty || (shape.snapshots.isEmpty && chance(20)) {
            next.size = newSize() ?? shape.size
            if next.size != shape.size { options.append("size=\(next.size)") }
        }
        if options.isEmpty { return try requests() }
        if try both(["amend", "-q", "-f", "qcow2", "-o", options.joined(separator: ","), Self.disk]) {
            let size = next.size
            next.size = shape.size
            shape = next
            try settle(size)
        }
    }

    private mutating func rebase() throws {
        // What a snapshot lacks, it would see in the new backing file.
        guard shape.backing != nil, shape.snapshots.isEmpty else { return try requests() }
        // QEMU takes no relative name for an image that is named by options, as the secret has to be.
        guard !twins.isEncrypted else { return try requests() }
        shape.wasRebased = true
        if chance(30) {
            try mustBoth(["rebase", "-q", "-f", "qcow2", "-b", "", Self.disk])
            shape.backing = nil
            shape.backingBytes = 0
        } else {
            let other = try makeBase()
            try mustBoth(["rebase", "-q", "-f", "qcow2", "-b", "base\(other).raw", "-F", "raw", Self.disk])
            shape.backing = other
        }
    }

    private mutating func bitmap() throws {
        let known = shape.bitmaps
        switch random.number(in: 0..<7) {
        case 0 where !known.isEmpty:
            let doomed = pick(known)
            try mustBoth(["bitmap", "--remove", Self.disk, doomed])
            shape.bitmaps.removeAll { $0 == doomed }
        case 1 where !known.isEmpty:
            try both(["bitmap", pick(["--clear", "--enable", "--disable"]), Self.disk, pick(known)])
        case 2 where known.count > 1: try both(["bitmap", "--merge", pick(known), Self.disk, pick(known)])
        default:
            names += 1
            let granularity = chance(50) ? ["-g", "\(pick([512, 4096, 65536]))"] : []
            guard try both(["bitmap", "--add"] + granularity + [Self.disk, "b\(names)"]) else { return }
            shape.bitmaps.append("b\(names)")
        }
    }

    private mutating func commit() throws {
        guard shape.backing != nil, shape.snapshots.isEmpty else { return try requests() }
        let done = try both(["commit", "-q", "-f", "qcow2"] + (chance(20) ? ["-d"] : []) + [Self.disk])
        if done { shape.backingBytes = max(shape.backingBytes, shape.size) }
    }
}
