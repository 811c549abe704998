import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

@testable import BlockJobs

/// A chain of qcow2 images in a store, and one job's work on it. Whatever happens, the top reads the same.
struct ChainScenario {
    enum Work: String, CaseIterable, Sendable {
        case stream, streamToBase, commit, commitDeep, rebase, rebaseToNothing, rebaseCompressed
    }

    static let top = "top"
    private static let names = ["base", "low", "middle", top]

    let work: Work
    let store = TestStore()
    private(set) var expected: [UInt8] = []

    /// Makes the images: sizes, cluster sizes and contents vary with the seed.
    init(_ work: Work, seed: Int) throws {
        self.work = work
        var random = SeededRandom(seed: UInt64(seed))
        // A base that writes nothing by itself: without the job's own flush it would not be durable.
        let isPlain = work == .commit && seed % 2 == 1
        let names = isPlain ? ["base", Self.top] : Self.names
        for (index, name) in names.enumerated() {
            try make(name, over: index > 0 ? names[index - 1] : nil, isRaw: isPlain && index == 0, &random)
        }
        try make("other", over: nil, &random)
        expected = try Self.contents(of: store)
        store.clearLog()
    }

    private func make(
        _ name: String, over backing: String?, isRaw: Bool = false, _ random: inout SeededRandom
    ) throws {
        let opener = Self.opener(store)
        let size = random.number(in: 8..<40) * 4096
        let format = isRaw || backing == nil && random.number(in: 0..<2) == 0 ? "raw" : "qcow2"
        var options = try opener.createOptions(format: format, filename: name)
        try options.set(.size, to: String(size))
        let clusterSize = ["512", "4096", "65536"][random.number(in: 0..<3)]
        let version = random.number(in: 0..<4) == 0 ? "0.10" : "1.1"
        // A raw disk has none of these.
        if format == "qcow2" {
            try options.set(.clusterSize, to: clusterSize)
            try options.set(.compat, to: version)
            try options.set(.backingFile, to: backing)
            if let backing { try options.set(.backingFormat, to: try Self.format(of: backing, in: store)) }
        }
        try opener.create(name, format: format, options: options)
        let node = try opener.open(name, format: format, settings: OpenSettings(readOnly: false))
        for _ in 0..<random.number(in: 3..<9) {
            let offset = random.number(in: 0..<size / 512) * 512
            let count = min(random.number(in: 1..<40) * 512, size - offset)
            if random.number(in: 0..<3) == 0 {
                try node.writeZeroes(at: offset, count: count)
            } else {
                try node.write(random.bytes(count).span.bytes, at: offset)
            }
        }
        try node.flush()
        try node.close()
    }

    static func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([Qcow2Driver.self, RawDriver.self]))
    }

    static func format(of name: String, in store: TestStore) throws -> String {
        let node = try opener(store).open(name, settings: OpenSettings(withoutBacking: true))
        defer { try? node.close() }
        return node.driverName
    }

    static func contents(of store: TestStore) throws -> [UInt8] {
        let node = try opener(store).open(top, format: "qcow2")
        defer { try? node.close() }
        return try Layers.contents(node)
    }

    /// Opens the top, does the job and closes everything.
    func run(on store: TestStore) throws {
        let node = try Self.opener(store).open(
            Self.top, format: "qcow2", settings: OpenSettings(readOnly: false))
        do { try run(on: node, store) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    private func run(on node: BlockNode, _ store: TestStore) throws {
        let base = node.chain.first { $0.filename == "low" }
        switch work {
        case .stream: try StreamJob(node: node).run(JobControl())
        case .streamToBase: try StreamJob(node: node, base: base).run(JobControl())
        case .commit: try CommitJob(top: node).run(JobControl())
        case .commitDeep: try CommitJob(top: node, base: base, emptiesTop: false).run(JobControl())
        case .rebaseToNothing:
            try RebaseJob(node: node, backing: nil, reference: nil).run(JobControl())
        case .rebase, .rebaseCompressed:
            let format = try Self.format(of: "other", in: store)
            let other = try Self.opener(store).open("other", format: format)
            defer { if node.backing !== other { try? other.close() } }
            try RebaseJob(
                node: node, backing: other, reference: BackingReference(filename: "other", format: format),
                compress: work == .rebaseCompressed
            ).run(JobControl())
        }
    }

    /// The top reads the same, no image is corrupt, and the job can be done again.
    func verify(_ files: [String: SparseBytes], _ moment: String) throws {
        let store = TestStore(files)
        try compare(store, moment)
        try run(on: store)
        try compare(store, "\(moment), and the job done again")
    }

    func compare(_ store: TestStore, _ moment: String) throws {
        let isSame = try Self.contents(of: store) == expected
        #expect(isSame, "\(work) \(moment): the top reads otherwise")
        for name in store.files.keys.sorted() where try Self.format(of: name, in: store) == "qcow2" {
            try check(name, in: store, moment)
        }
    }

    private func check(_ name: String, in store: TestStore, _ moment: String) throws {
        // Opening for writing repairs an image with lazy refcounts, as its next user would.
        let node = try Self.opener(store).open(
            name, format: "qcow2", settings: OpenSettings(readOnly: false, withoutBacking: true))
        defer { try? node.close() }
        let driver = try #require(node.format as? any Checkable)
        var lines: [String] = []
        let result = try driver.check(repair: .none) { lines.append($0) }
        #expect(result.corruptions == 0 && result.checkErrors == 0, "\(work) \(moment): \(name): \(lines)")
    }
}

@Suite("Jobs that are stopped") struct JobCrashTests {
    static let cases = ChainScenario.Work.allCases.flatMap { work in (0..<4).map { (work, $0) } }

    @Test("killed or without power at any write, nothing is lost", arguments: cases)
    func crash(work: ChainScenario.Work, seed: Int) throws { try crash(work, seed, shares: false) }

    @Test("the same where files share their space", arguments: cases)
    func crashWhileSharing(work: ChainScenario.Work, seed: Int) throws {
        let shared = try crash(work, seed, shares: true)
        if work == .rebaseCompressed { #expect(shared == 0) }
    }

    @Test("chains whose images have clusters of blocks share")
    func chainsShare() throws {
        for work in ChainScenario.Work.allCases where work != .rebaseCompressed {
            let shared = try (0..<8).map { seed in
                let scenario = try ChainScenario(work, seed: seed)
                scenario.store.sharesSpace = true
                try scenario.run(on: scenario.store)
                try scenario.compare(scenario.store, "seed \(seed)")
                return scenario.store.sharedBytes
            }
            #expect(shared.contains { $0 > 0 }, "\(work)")
        }
    }

    @discardableResult
    private func crash(_ work: ChainScenario.Work, _ seed: Int, shares: Bool) throws -> Int {
        let scenario = try ChainScenario(work, seed: seed)
        let files = scenario.store.files
        scenario.store.sharesSpace = shares
        defer { scenario.store.sharesSpace = false }
        try scenario.run(on: scenario.store)
        try CrashPoints.replay(scenario.store.log, over: files, seed: UInt64(seed)) { files, _, moment in
            try scenario.verify(files, "seed \(seed), \(moment)")
        }
        return scenario.store.sharedBytes
    }

    @Test("whichever call fails, nothing is lost", arguments: cases)
    func failures(work: ChainScenario.Work, seed: Int) throws {
        for mode in FaultPlan.Mode.usual {
            let scenario = try ChainScenario(work, seed: seed)
            let files = scenario.store.files
            var number = 1
            while true {
                let store = TestStore(files)
                store.sharesSpace = seed % 2 == 1
                store.faults.arm(number, mode)
                let outcome = Result { try scenario.run(on: store) }
                let failed = store.faults.failures > 0
                store.faults.disarm()
                try scenario.compare(store, "seed \(seed), call \(number) failed with \(mode)")
                if !failed {
                    try outcome.get()
                    break
                }
                number += max(1, number / 12)
            }
            #expect(number > 10)
        }
    }
}
