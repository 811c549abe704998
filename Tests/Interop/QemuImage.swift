import BlockCore
import BlockFormats
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

/// Whether QEMU's tools are here. In CI their absence must fail the tests, not skip them.
enum Peer {
    static let isExpected =
        ProcessInfo.processInfo.environment["CI"] != nil
        || FileManager.default.fileExists(atPath: "/usr/bin/qemu-img")
}

/// A qcow2 image that QEMU's tools and our driver work on in turn, beside the model of what it must hold.
struct QemuImage {
    static let sectorBytes = 512

    let fixture: CommandFixture
    let name: String
    var model: ReferenceDisk
    let clusterBytes: Int
    /// Has a backing file, so that version 2 cannot discard.
    let hasBacking: Bool
    let isVersion2: Bool

    /// What to create, and who does it.
    struct Options: Sendable, CustomTestStringConvertible {
        var cluster = 65536
        var size: Int
        var backing: Int?
        var more: [String] = []

        var testDescription: String { "cluster \(cluster) size \(size) \(more.joined(separator: ","))" }
        var list: String { (["cluster_size=\(cluster)"] + more).joined(separator: ",") }
    }

    /// Makes the image with `program` (`qemu-img` or `platter`), over a raw base where it has one.
    init(_ options: Options, madeBy program: String, in fixture: CommandFixture) throws {
        self.fixture = fixture
        name = "disk.qcow2"
        clusterBytes = options.cluster
        hasBacking = options.backing != nil
        isVersion2 = options.more.contains("compat=0.10")
        var backing: SparseBytes?
        if let size = options.backing {
            let bytes = Pattern.bytes(stamp: -1, at: 0, count: size)
            try fixture.write("base.raw", bytes)
            backing = SparseBytes(bytes)
        }
        model = ReferenceDisk(size: options.size, backing: backing)
        let below = hasBacking ? ["-b", "base.raw", "-F", "raw"] : []
        let arguments =
            ["create", "-q", "-f", "qcow2", "-o", options.list] + below + [name, "\(options.size)"]
        try run(program, arguments)
    }

    /// Runs `platter` or one of QEMU's tools, which must succeed.
    @discardableResult
    private func run(_ program: String, _ arguments: [String]) throws -> CommandOutcome {
        let url = program == "platter" ? CommandFixture.platter : URL(filePath: "/usr/bin/\(program)")
        let outcome = try ProcessGate.afterStarts {
            try fixture.run(url, arguments)
        } isLocked: {
            $0.text.contains("Failed to get")
        }
        guard outcome.status == 0, !outcome.text.contains("failed") else {
            throw Mismatch("\(program) \(arguments): \(outcome.text)")
        }
        return outcome
    }

    func openOurs(readOnly: Bool = false) throws -> BlockNode {
        let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
        let opener = ImageOpener(registry: registry)
        return try ProcessGate.opening {
            try opener.open(
                fixture.path(name), format: "qcow2", settings: OpenSettings(readOnly: readOnly))
        }
    }

    // MARK: Working

    /// Random operations by our driver.
    mutating func workOurs(seed: UInt64, count: Int) throws {
        let node = try openOurs()
        defer { try? node.close() }
        var abilities = DiskAbilities()
        abilities.unit = clusterBytes
        abilities.compresses = true
        var generator = OperationGenerator(seed: seed, size: model.size, abilities: abilities)
        for operation in generator.operations(count) {
            guard let operation = operation.clipped(to: model.size) else { continue }
            try node.perform(operation)
            if case .discard(let offset, let count) = operation {
                model.adopt(try node.readBytes(at: offset, count: count), at: offset)
            } else {
                model.apply(operation)
            }
        }
        try node.close()
    }

    /// Random operations by qemu-io.
    mutating func workQemu(seed: UInt64, count: Int) throws {
        var random = SeededRandom(seed: seed)
        var commands: [String] = []
        for _ in 0..<count {
            let next = next(&random)
            // QEMU 7.2 may put a compressed cluster behind another one that was given up meanwhile and now
            // holds data; a new process does not remember the place.
            if next.contains(where: { $0.hasPrefix("write -c") }) { try flushToQemu(&commands) }
            commands += next
        }
        try flushToQemu(&commands)
    }

    private func flushToQemu(_ commands: inout [String]) throws {
        guard !commands.isEmpty else { return }
        try run("qemu-io", ["-f", "qcow2", "-d", "unmap"] + commands.flatMap { ["-c", $0] } + [name])
        commands = []
    }

    private mutating func next(_ random: inout SeededRandom) -> [String] {
        let sectors = model.size / Self.sectorBytes
        let offset = random.number(in: 0..<sectors) * Self.sectorBytes
        let length = min((1 + random.number(in: 0..<3 * clusterBytes / 512)) * 512, model.size - offset)
        let units = model.size / clusterBytes
        let unit = random.number(in: 0..<max(1, units)) * clusterBytes
        let canDiscard = units > 0 && !(isVersion2 && hasBacking)
        let fill = 1 + random.number(in: 0..<255)
        switch random.number(in: 0..<8) {
        case 0, 1, 2:
            model.write([UInt8](repeating: UInt8(fill), count: length), at: offset)
            return ["write -P \(fill) \(offset) \(length)"]
        case 3 where canDiscard:
            model.write([UInt8](repeating: UInt8(fill), count: clusterBytes), at: unit)
            // QEMU compresses only into clusters that are not allocated.
            return ["discard \(unit) \(clusterBytes)", "write -c -P \(fill) \(unit) \(clusterBytes)"]
        case 4:
            model.writeZeroes(offset..<offset + length)
            return ["write -z \(offset) \(length)"]
        case 5:
            model.writeZeroes(offset..<offset + length)
            return ["write -z -u \(offset) \(length)"]
        case 6 where canDiscard:
            model.writeZeroes(unit..<unit + clusterBytes)
            return ["discard \(unit) \(clusterBytes)"]
        default: return ["flush"]
        }
    }

    // MARK: Snapshots and sizes

    /// One step with snapshots or the size, by QEMU's tool or ours.
    mutating func change(_ random: inout SeededRandom, byQemu: Bool) throws {
        let name = ["one", "two"][random.number(in: 0..<2)]
        switch random.number(in: 0..<4) {
        case 0 where !model.hasSnapshot(name):
            try image(["snapshot", "-c", name], byQemu)
            model.createSnapshot(name)
        case 1 where model.hasSnapshot(name):
            try image(["snapshot", "-a", name], byQemu)
            model.applySnapshot(name)
        case 2 where model.hasSnapshot(name):
            try image(["snapshot", "-d", name], byQemu)
            model.deleteSnapshot(name)
        case 3 where model.snapshots.isEmpty:
            let size = model.size + (random.number(in: 0..<5)) * 512 * 33
            try image(["resize", "-q", "-f", "qcow2"], byQemu, after: ["\(size)"])
            model.resize(to: size)
        default: break
        }
    }

    private func image(_ arguments: [String], _ byQemu: Bool, after: [String] = []) throws {
        try run(byQemu ? "qemu-img" : "platter", arguments + [name] + after)
    }

    // MARK: Judging

    /// Both read the model's bytes, and both find the structure sound, without leaks.
    func judge(_ moment: String) throws {
        do {
            let node = try openOurs(readOnly: true)
            defer { try? node.close() }
            guard try node.length() == model.size else { throw Mismatch("our size is \(try node.length())") }
            guard try node.readBytes(at: 0, count: model.size) == model.read(0..<model.size) else {
                throw Mismatch("our driver reads otherwise")
            }
            try fixture.write("want.raw", model.read(0..<model.size))
            try run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", name, "want.raw"])
            try run("qemu-img", ["check", "-f", "qcow2", name])
            try run("platter", ["check", "-f", "qcow2", name])
        } catch { throw Mismatch("\(moment): \(error)") }
    }

    /// Both read the snapshots' bytes.
    func judgeSnapshots() throws {
        for snapshot in model.snapshots {
            try fixture.write("want.raw", snapshot.contents.read(at: 0, count: snapshot.contents.count))
            for program in ["qemu-img", "platter"] {
                try run(
                    program,
                    ["convert", "-f", "qcow2", "-O", "raw", "-l", snapshot.name, name, "snapshot.raw"])
                guard try fixture.read("snapshot.raw") == fixture.read("want.raw") else {
                    throw Mismatch("\(program) reads snapshot '\(snapshot.name)' otherwise")
                }
            }
        }
    }
}
