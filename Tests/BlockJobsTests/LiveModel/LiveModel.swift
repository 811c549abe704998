import BlockCore
import BlockFormats
import BlockJobs
import BlockTestSupport

/// A device with a chain of images beside the model of what a guest must see. One thread drives it; the guest
/// and the jobs have theirs.
final class LiveModel {
    /// A job under way.
    struct Started {
        var kind: LiveJob
        var running: RunningJob
        /// The top when it was started: a mirror that takes its place closes it, which ends the jobs below.
        var root: BlockNode
        /// The node that gets the copy; the device's once it pivots.
        var target: BlockNode?
        /// What the target of a backup must hold.
        var moment: ReferenceDisk?
        var isCancelled = false
    }

    /// The unit of sizes in bytes.
    static let unit = 64 << 10

    let store: TestStore
    let opener: ImageOpener
    let engine: JobEngine
    private(set) var device: BlockDevice
    var disk: ReferenceDisk
    var guest: LiveGuest?
    var jobs: [Started] = []
    /// The snapshots of the top image, with what they hold.
    var snapshots: [String: ReferenceDisk] = [:]
    /// A bitmap of the top, with the disk when it was made and the least size since.
    var bitmap: (bits: NodeBitmap, root: BlockNode, before: ReferenceDisk, size: Int)?
    /// How often each kind of step did something, or was refused.
    private(set) var counts: [String: Int] = [:]
    private var images = 0

    /// - Parameter point: called at each access to a file.
    init(_ seed: UInt64, clock: any BlockClock, point: @escaping @Sendable () -> Void = {}) throws {
        store = TestStore()
        opener = ImageOpener(
            registry: DriverRegistry(
                formats: StandardFormats.all, protocols: [PointedDisk.entry(store, point)]),
            policy: .anyFile)
        engine = JobEngine(clock: clock)
        disk = ReferenceDisk(size: 12 * Self.unit)
        device = BlockDevice(name: "none", root: nil)
        var random = SeededRandom(seed: seed)
        let formats = ["qcow2", "qcow2", "raw", "vmdk", "qed", "vhdx"]
        device = try open(try create(formats[random.number(in: 0..<formats.count)], random.number(in: 0..<8)))
        for layer in 0..<random.number(in: 1..<4) {
            try change(seed: random.next(), count: 12)
            try perform(.overlay(layer + random.number(in: 0..<8)))
        }
    }

    func count(_ what: String) { counts[what, default: 0] += 1 }

    // MARK: Images

    /// Makes an image of the disk's size and returns its name.
    func create(_ format: String, _ choice: Int, over backing: BlockNode? = nil) throws -> String {
        images += 1
        let name = "image\(images).\(format)"
        var options = try opener.createOptions(format: format, filename: name)
        try options.set(.size, to: String(disk.size))
        if format == "qcow2" {
            try options.set(.clusterSize, to: ["512", "4096", "65536"][choice % 3])
            if choice % 4 == 3 { try options.set(.lazyRefcounts, to: "on") }
        }
        if let backing {
            try options.set(.backingFile, to: backing.filename)
            try options.set(.backingFormat, to: backing.driverName)
        }
        try opener.create(name, format: format, options: options)
        return name
    }

    func node(_ name: String, readOnly: Bool = false, copiesOnRead: Bool = false) throws -> BlockNode {
        var settings = OpenSettings(readOnly: readOnly)
        settings.copyOnRead = copiesOnRead
        let format = String(name.drop { $0 != "." }.dropFirst())
        return try opener.open(name, format: format, settings: settings)
    }

    private func open(_ name: String, copiesOnRead: Bool = false) throws -> BlockDevice {
        BlockDevice(name: "disk0", root: try node(name, copiesOnRead: copiesOnRead))
    }

    /// The top image.
    func root() throws -> BlockNode {
        guard let root = device.root else { throw Mismatch("the device has no medium") }
        return root
    }

    /// Ends all jobs and the guest, closes the device and opens the image, or a new one over it.
    func reopen(overlay format: (name: String, choice: Int)? = nil, copiesOnRead: Bool = false) throws {
        try endJobs()
        try quiet()
        bitmap = nil
        let top = try root()
        var name = top.filename
        let made = try format.map { try create($0.name, $0.choice, over: top) }
        try device.close()
        guard store.openDisks == 0 else { throw Mismatch("closing left \(store.openDisks) files open") }
        if let made {
            name = made
            snapshots = [:]
        }
        device = try open(name, copiesOnRead: copiesOnRead)
        try compare()
    }

    // MARK: Comparing

    /// Ends the guest and compares the disk.
    func quiet() throws {
        if let guest {
            self.guest = nil
            if let failure = guest.finish().first { throw Mismatch("the guest failed: \(failure)") }
            disk = guest.contents
        }
        try compare()
    }

    private func compare() throws {
        let size = try device.length()
        guard size == disk.size else { throw Mismatch("the size is \(size), not \(disk.size)") }
        try Self.compare(try device.readBytes(at: 0, count: size), disk, "the disk")
    }

    static func compare(_ found: [UInt8], _ disk: ReferenceDisk, _ what: String) throws {
        let expected = disk.read(0..<disk.size)
        guard found != expected else { return }
        let place = zip(found, expected).enumerated().first { $0.element.0 != $0.element.1 }?.offset
        let count = zip(found, expected).reduce(0) { $0 + ($1.0 == $1.1 ? 0 : 1) }
        throw Mismatch(
            "\(what) differs from byte \(place ?? min(found.count, expected.count)) on, in \(count)")
    }

    /// Ends everything; checks the images from scratch.
    func finish() throws {
        try endJobs()
        try quiet()
        let name = try root().filename
        try device.close()
        guard store.openDisks == 0 else { throw Mismatch("closing left \(store.openDisks) files open") }
        let again = try node(name, readOnly: true)
        try Self.compare(try again.readBytes(at: 0, count: try again.length()), disk, "the closed image")
        for layer in again.chain { try check(layer) }
        try again.close()
    }

    private func check(_ node: BlockNode) throws {
        guard let checkable = node.format?.asCheckable else { return }
        var lines: [String] = []
        let result = try checkable.check(repair: .none) { lines.append($0) }
        // A layer that a commit has left behind may have lost its end: only what no table refers to is amiss.
        guard result.corruptions == 0, result.checkErrors == 0,
            node.driverName != "qcow2" || result.leaks == 0
        else {
            throw Mismatch("check of \(node.filename): " + lines.prefix(6).joined(separator: "; "))
        }
    }
}
