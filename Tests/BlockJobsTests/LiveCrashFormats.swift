import BlockCore
import BlockFormats
import BlockTestSupport

/// A format as the guest's disk, as its layers and as a job's target.
struct LiveFormat: Sendable, CustomStringConvertible {
    let driver: any Creatable.Type
    var options: [String: String] = [:]
    var open: [String: String] = [:]
    /// Whether it has backing files.
    var hasBacking = false
    /// Whether a check after a crash may find what a repair mends: the format cannot mark an image as dirty.
    var mayRepair = false
    var label = ""

    static let secrets = SecretSource(["s0": KeyMaterial("hunter2")])

    var description: String { label.isEmpty ? driver.name : "\(driver.name) \(label)" }

    /// Every format that can be written, with layouts that differ in the order of their writes.
    static let all: [LiveFormat] = [
        LiveFormat(driver: RawDriver.self),
        LiveFormat(driver: Qcow2Driver.self, options: ["cluster_size": "4096"], hasBacking: true),
        LiveFormat(
            driver: Qcow2Driver.self, options: ["cluster_size": "65536", "lazy_refcounts": "on"],
            hasBacking: true,
            label: "lazy"),
        LiveFormat(
            driver: Qcow2Driver.self, options: ["cluster_size": "512", "compat": "0.10"], hasBacking: true,
            mayRepair: true, label: "0.10"),
        LiveFormat(
            driver: Qcow2Driver.self, options: ["cluster_size": "16384", "extended_l2": "on"],
            hasBacking: true,
            label: "extended"),
        LiveFormat(driver: QcowDriver.self, hasBacking: true),
        LiveFormat(driver: QedDriver.self, options: ["cluster_size": "4096"], hasBacking: true),
        LiveFormat(driver: VdiDriver.self),
        LiveFormat(driver: VhdDriver.self, options: ["force_size": "on"], hasBacking: true),
        LiveFormat(driver: VhdxDriver.self, options: ["block_size": "1M"], hasBacking: true),
        LiveFormat(driver: ParallelsDriver.self, options: ["cluster_size": "65536"]),
        LiveFormat(driver: VmdkDriver.self, options: ["subformat": "monolithicSparse"], hasBacking: true),
        LiveFormat(
            driver: LuksDriver.self, options: ["key-secret": "s0", "iter-time": "0"],
            open: ["key-secret": "s0"]),
    ]

    /// A small format with a bug. Every request of the guest writes whole clusters.
    static func fake(_ bug: FakeBug) -> LiveFormat {
        LiveFormat(
            driver: FakeFormat.self, options: ["cluster_size": "512"], open: ["bug": bug.rawValue],
            label: bug.rawValue)
    }
}

/// Images of one format in a store.
struct LiveImages {
    let store: TestStore
    let format: LiveFormat
    static let size = 512 << 10

    var opener: ImageOpener {
        var formats: [any FormatDriver.Type] = [format.driver]
        if format.driver.name != RawDriver.name { formats.append(RawDriver.self) }
        return ImageOpener(registry: store.registry(formats), policy: .anyFile, secrets: LiveFormat.secrets)
    }

    func make(_ name: String, over backing: String? = nil) throws {
        var options = try opener.createOptions(format: format.driver.name, filename: name)
        for key in format.options.keys.sorted() {
            try options.set(name: key, to: format.options[key] ?? "")
        }
        try options.set(.size, to: String(Self.size))
        if let backing {
            try options.set(.backingFile, to: backing)
            try options.set(.backingFormat, to: format.driver.name)
        }
        try opener.create(name, format: format.driver.name, options: options)
    }

    func open(
        _ name: String, readOnly: Bool = false, alone: Bool = false, forCheck: Bool = false
    ) throws(BlockError) -> BlockNode {
        var options = OptionTree()
        for (key, value) in format.open { options[key] = value }
        return try opener.open(
            name, format: format.driver.name,
            settings: OpenSettings(readOnly: readOnly, withoutBacking: alone, forCheck: forCheck),
            options: options)
    }

    /// Puts data and zeroes all over an image.
    func fill(_ name: String, stamp: Int, model: inout ReferenceDisk, _ random: inout SeededRandom) throws {
        let node = try open(name)
        model.resize(to: try node.length())
        // What an encrypted disk holds at first is noise.
        if node.format?.unwrittenReadsAsZero == false { try node.writeZeroes(at: 0, count: model.size) }
        for step in 0..<14 {
            let offset = random.number(in: 0..<Self.size / 512) * 512
            let count = min(Self.size - offset, 512 * (1 + random.number(in: 0..<60)))
            if step % 5 == 4 {
                try node.writeZeroes(at: offset, count: count)
                model.writeZeroes(offset..<offset + count)
            } else {
                let bytes = Pattern.bytes(stamp: stamp + step, at: offset, count: count)
                try node.write(bytes.span.bytes, at: offset)
                model.write(bytes, at: offset)
            }
        }
        try node.close()
    }

    /// Opens an image as its next user does, writes a little, and checks it: no corruption, leaks allowed.
    func checkStructure(_ name: String) throws {
        try open(name, alone: true).close()
        if format.mayRepair { _ = try check(name, repair: .all) }
        let (result, lines) = try check(name, repair: .none)
        guard result.corruptions == 0, result.checkErrors == 0 else {
            throw Mismatch("\(name) is corrupt: \(lines.prefix(6))")
        }
    }

    private func check(_ name: String, repair: RepairMode) throws -> (CheckResult, [String]) {
        let node = try open(name, readOnly: repair == .none, alone: true, forCheck: true)
        defer { try? node.close() }
        var lines: [String] = []
        let result = try node.format?.asCheckable?.check(repair: repair) { lines.append($0) }
        return (result ?? CheckResult(), lines)
    }
}
