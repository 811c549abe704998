import BlockTestSupport
import Foundation
import Testing

/// Images from strangers, taken through the program: it answers each with a status and one line that names
/// the file, and takes neither long nor much memory for it.
@Suite struct HostileCommandTests {
    /// Some of the damaged images; each batch has a process that measures.
    struct Batch: Sendable, CustomTestStringConvertible {
        static let size = 15
        static let all = stride(from: 0, to: HostileCase.all.count, by: size).map { Batch(first: $0) }

        var first: Int
        var cases: ArraySlice<HostileCase> { HostileCase.all.dropFirst(first).prefix(Self.size) }
        var testDescription: String { "from \(cases.first?.name ?? "none") on" }

        func forEach(_ body: (HostileProgramRun) throws -> Void) throws {
            let runner = try MeasuredRunner()
            for damage in cases { try body(HostileProgramRun(damage, runner)) }
        }
    }

    /// A folder's worth of data that is no cluster of any of the images.
    private static let other = [UInt8](repeating: 0x77, count: 65536)

    /// What is measured here can be too much.
    @Test func measuring() throws {
        let fixture = try CommandFixture()
        let runner = try MeasuredRunner()
        let told = try runner.platter(["--version"], in: fixture.folder, seconds: 30)
        #expect(told.status == 0 && !told.isLate && told.output.hasPrefix("platter"), "\(told)")
        // The program alone takes some MiB; the test process, which is larger, is not counted.
        #expect(told.peakKiB > 2 << 10)
        let late = try runner.platter(["--version"], in: fixture.folder, seconds: 0.0001)
        #expect(late.status == -9 && late.isLate, "\(late)")
    }

    @Test(.timeLimit(.minutes(3)), arguments: Batch.all)
    func looking(_ batch: Batch) throws {
        try batch.forEach { run in
            try run.store("disk.qcow2")
            try run.fixture.write("other.raw", Self.other)
            let before = try run.changeTime("disk.qcow2")
            for line in ["info", "info --backing-chain --output=json"] {
                try run.platter("\(line) disk.qcow2", run.statusesOfInfo)
            }
            if run.isSmall { try mapping(run) }
            try run.platter("snapshot -l disk.qcow2", run.isRefused ? [1] : run.statusesOfInfo)
            // Where the damage is, or the first byte that differs: that is how far it comes.
            try run.platter(
                "compare -F raw disk.qcow2 other.raw",
                run.isRefused ? [2] : run.reads ? [1] : [1, 3, 4])
            try run.platter("check disk.qcow2", run.isRefused ? [1] : [run.damage.finding.rawValue])
            #expect(try run.changeTime("disk.qcow2") == before, "\(run.damage): looking wrote")
            #expect(
                try run.contents("disk.qcow2") == run.damage.image.bytes,
                "\(run.damage): looking changed something")
        }
    }

    private func mapping(_ run: HostileProgramRun) throws {
        try run.platter("map disk.qcow2", run.statusesOfMap)
        let statuses: Set<Int32> = run.isRefused ? [1] : run.reads ? [0] : [0, 1]
        try run.platter("map --output=json disk.qcow2", statuses)
        try run.platter("measure -O qcow2 disk.qcow2", run.hasBitmaps ? statuses.union([0, 1]) : statuses)
    }

    @Test(.timeLimit(.minutes(3)), arguments: Batch.all)
    func converting(_ batch: Batch) throws {
        try batch.forEach { run in
            guard run.isSmall else { return }
            try run.store("disk.qcow2")
            let fails = run.isRefused || !run.reads
            for format in ["raw", "qcow2"] {
                try run.platter("convert -O \(format) disk.qcow2 new.\(format)", fails ? [1] : [0])
                #expect(run.fixture.exists("new.\(format)") != fails, "\(run.damage): half a target is left")
            }
            try run.fixture.write("there.raw", [])
            try FileHandle(forWritingTo: run.fixture.folder.appending(path: "there.raw"))
                .truncate(atOffset: UInt64(run.damage.image.virtualSize))
            try run.platter("convert -n -O raw -l one disk.qcow2 there.raw", [0, 1])
            #expect(run.fixture.exists("there.raw"))
        }
    }

    /// Every change is made to a copy of its own.
    private static let changes = [
        "check -r leaks copy", "snapshot -c new copy", "snapshot -a one copy", "snapshot -d one copy",
        "resize copy +1M", "resize --shrink copy 512", "rebase -u copy",
    ]

    @Test(.timeLimit(.minutes(3)), arguments: Batch.all)
    func changing(_ batch: Batch) throws {
        try batch.forEach { run in
            for change in Self.changes {
                try run.store("copy")
                let statuses: Set<Int32> = change.hasPrefix("check") ? [0, 1, 2, 3] : [0, 1]
                let outcome = try run.platter(change, run.isRefused ? [1] : statuses)
                guard outcome.status == 0 else { continue }
                try run.platter("info copy", run.statusesOfInfo)
                // What was sound stays so.
                if run.damage.finding == .nothing { try run.platter("check copy", [0]) }
            }
            try repairing(run)
            try committing(run)
        }
    }

    private func repairing(_ run: HostileProgramRun) throws {
        try run.store("copy")
        var repaired = try run.platter("check -r all copy", run.isRefused ? [1] : [0, 1, 2, 3])
        // What an entry that was given up may have referred to is freed by another repair.
        if repaired.status == 3 { repaired = try run.platter("check -r all copy", [0, 3]) }
        if run.damage.isRepairable { #expect(repaired.status == 0, "\(run.damage) \(repaired)") }
        if repaired.status == 0 { try run.platter("check copy", [0]) }
    }

    private func committing(_ run: HostileProgramRun) throws {
        try run.store("copy")
        try run.fixture.write("base", [UInt8](repeating: 0x55, count: 1 << 20))
        let rebased = try run.platter("rebase -u -b base -F raw copy", [0, 1])
        if rebased.status == 0, run.isSmall { try run.platter("commit copy", [0, 1]) }
    }
}

/// One damaged image in a folder of its own, and the program that it is given to.
struct HostileProgramRun {
    let damage: HostileCase
    let fixture: CommandFixture
    private let runner: MeasuredRunner
    private static let maximumSeconds: Double = 30
    private static let maximumPeakKiB = 100 << 10

    init(_ damage: HostileCase, _ runner: MeasuredRunner) throws {
        self.damage = damage
        self.runner = runner
        fixture = try CommandFixture()
    }

    var isRefused: Bool { damage.refusal != nil }
    /// All of the disk can be read.
    var reads: Bool { damage.readFailure == nil }
    /// What states a petabyte of data takes its time, whoever reads it.
    var isSmall: Bool { damage.image.virtualSize <= 1 << 30 }
    var hasBitmaps: Bool { damage.image.get64(Qcow2Bytes.Field.autoclear) & 1 != 0 }
    private var hasSnapshots: Bool { damage.image.get64(Qcow2Bytes.Field.snapshotCount) >> 32 != 0 }

    /// Features that are not understood are told, all the same.
    var statusesOfInfo: Set<Int32> { isRefused || hasSnapshots || hasBitmaps ? [0, 1] : [0] }

    /// Where data is compressed, there is no offset to list.
    var statusesOfMap: Set<Int32> {
        if isRefused { return [1] }
        let first = damage.image.get64(damage.image.l2)
        return reads && first & Qcow2Bytes.compressed == 0 ? [0] : [0, 1]
    }

    func store(_ name: String) throws { try damage.image.store(at: fixture.path(name)) }

    /// When the file was last written to.
    func changeTime(_ name: String) throws -> Date? {
        let attributes = try FileManager.default.attributesOfItem(atPath: fixture.path(name))
        return attributes[.modificationDate] as? Date
    }

    /// The file's bytes, without reading its holes.
    func contents(_ name: String) throws -> SparseBytes { try SparseBytes(contentsOf: fixture.path(name)) }

    /// Runs the program, and holds it to everything that has to be so for any image.
    @discardableResult
    func platter(_ line: String, _ statuses: Set<Int32>) throws -> MeasuredOutcome {
        var arguments = line.split(separator: " ").map(String.init)
        let command = arguments[0]
        arguments.insert(contentsOf: ["-f", "qcow2"], at: 1)
        // Whatever an image names, these tests touch no file but their own.
        arguments.insert("--open-policy=same-folder", at: 0)
        let outcome = try runner.platter(arguments, in: fixture.folder, seconds: Self.maximumSeconds)
        let told = "\(damage): \(line): status \(outcome.status) \(outcome.error.prefix(1000))"
        #expect(!outcome.isLate, "\(told)")
        #expect(outcome.status >= 0, "a signal: \(told)")
        #expect(statuses.contains(outcome.status), "\(told)")
        #expect(outcome.peakKiB < Self.maximumPeakKiB, "\(outcome.peakKiB) KiB: \(told)")
        let messages = outcome.error.split(separator: "\n").filter { $0.hasPrefix("platter: ") }
        let isFinding = command == "check" && outcome.status > 1
        let isDifference = command == "compare" && outcome.status == 1
        let isFailure = outcome.status != 0 && !isFinding && !isDifference
        #expect(messages.count == (isFailure ? 1 : 0), "\(told)")
        if isFailure, !messages.contains(where: isPlainRefusal) {
            #expect(messages.contains { $0.contains("disk.qcow2") || namesCopy($0) }, "\(told)")
        }
        return outcome
    }

    private func namesCopy(_ message: Substring) -> Bool {
        message.contains("'copy'") || message.contains("copy: ")
    }

    /// What is said of sound images too, where there is no such snapshot or nothing to list.
    private func isPlainRefusal(_ message: Substring) -> Bool {
        [
            "snapshot not found", "Failed to load snapshot", "is inconsistent and cannot be used",
            "File contains external, encrypted or compressed",
        ].contains { message.contains($0) }
    }
}
