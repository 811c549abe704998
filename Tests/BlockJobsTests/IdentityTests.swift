import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockJobs

/// A chain `base` <- `middle` <- `top` in a format that notes which contents a backing file must have, with
/// `sibling`, another overlay of `base`, and `other`, an image of its own. One byte fills each unit.
struct IdentifiedChain: Sendable, CustomTestStringConvertible {
    enum Work: String, CaseIterable, Sendable {
        case commit, commitAndKeep, commitDeep, commitMiddle, rebaseMiddle, streamMiddle
    }

    var format: String
    var unit: Int
    var options: [(name: String, value: String)] = []
    /// The disk has these many units; only the first five are looked at.
    var units = 5
    /// Makes names long.
    var suffix = ""

    var testDescription: String { "\(format) \(options.map(\.value))" }

    static let all = [
        IdentifiedChain(format: "vhdx", unit: 1 << 20, options: [("block_size", "1M")]),
        IdentifiedChain(format: "vmdk", unit: 65536),
        // The names in the descriptor take more than one sector.
        IdentifiedChain(
            format: "vmdk", unit: 65536, options: [("subformat", "twoGbMaxExtentSparse")], units: 2 << 15,
            suffix: String(repeating: "-long", count: 30)),
        IdentifiedChain(format: "vpc", unit: 4096, options: [("block_size", "4096"), ("force_size", "on")]),
    ]

    static let top: [UInt8] = [1, 2, 3, 4, 0]

    func opener(_ store: TestStore, warn: (@Sendable (String) -> Void)? = nil) -> ImageOpener {
        var opener = ImageOpener(
            registry: store.registry([VhdxDriver.self, VmdkDriver.self, VhdDriver.self, RawDriver.self]))
        opener.warn = warn
        return opener
    }

    func open(
        _ name: String, _ store: TestStore, readOnly: Bool = true, _ more: [String: String] = [:],
        warn: (@Sendable (String) -> Void)? = nil
    ) throws -> BlockNode {
        var tree = OptionTree()
        for (key, value) in more { tree[key] = value }
        return try opener(store, warn: warn).open(
            name + suffix, format: format, settings: OpenSettings(readOnly: readOnly), options: tree)
    }

    func create(_ name: String, over backing: String?, in store: TestStore, units: [Int: UInt8]) throws {
        let opener = opener(store)
        var values = try opener.createOptions(format: format, filename: name + suffix)
        for option in options where !(format == "vpc" && backing != nil && option.name == "force_size") {
            try values.set(name: option.name, to: option.value)
        }
        try values.set(.size, to: String(self.units * unit))
        try values.set(.backingFile, to: backing.map { $0 + suffix })
        if backing != nil { try values.set(.backingFormat, to: format) }
        try opener.create(name + suffix, format: format, options: values)
        let node = try open(name, store, readOnly: false)
        for (index, value) in units.sorted(by: { $0.key < $1.key }) {
            try node.write([UInt8](repeating: value, count: unit).span.bytes, at: index * unit)
        }
        try node.close()
    }

    func make() throws -> TestStore {
        let store = TestStore()
        try create("base", over: nil, in: store, units: [0: 1, 1: 1])
        try create("middle", over: "base", in: store, units: [1: 2, 2: 2])
        try create("top", over: "middle", in: store, units: [2: 3, 3: 4])
        try create("sibling", over: "base", in: store, units: [4: 9])
        try create("other", over: nil, in: store, units: [0: 7, 4: 7])
        store.clearLog()
        return store
    }

    func contents(_ node: BlockNode) throws -> [UInt8] {
        try (0..<5).map { index in
            let sectors = try [0, unit / 2, unit - 512].map { inside in
                try node.readBytes(at: index * unit + inside, count: 512)
            }
            let whole = [UInt8](repeating: sectors[0][0], count: 512)
            guard sectors.allSatisfy({ $0 == whole }) else { throw Mismatch("a mixture in \(index)") }
            return whole[0]
        }
    }

    func contents(of name: String, _ store: TestStore) throws -> [UInt8] {
        let node = try open(name, store)
        defer { try? node.close() }
        return try contents(node)
    }

    func run(_ work: Work, _ store: TestStore) throws {
        let isMiddle = [Work.commitMiddle, .rebaseMiddle, .streamMiddle].contains(work)
        let node = try open(isMiddle ? "middle" : "top", store, readOnly: false)
        do { try run(work, on: node, store) } catch {
            try? node.close()
            throw error
        }
        try node.close()
    }

    private func run(_ work: Work, on node: BlockNode, _ store: TestStore) throws {
        switch work {
        case .commit, .commitMiddle: try CommitJob(top: node).run(JobControl())
        case .commitAndKeep: try CommitJob(top: node, emptiesTop: false).run(JobControl())
        case .commitDeep:
            try CommitJob(top: node, base: node.chain.last, emptiesTop: false).run(JobControl())
        case .streamMiddle: try StreamJob(node: node).run(JobControl())
        case .rebaseMiddle:
            let other = try open("other", store)
            defer { if node.backing !== other { try? other.close() } }
            let reference = BackingReference(filename: "other" + suffix, format: format)
            try RebaseJob(node: node, backing: other, reference: reference).run(JobControl())
        }
    }
}

@Suite("Overlays know their backing files") struct IdentityTests {
    typealias Chain = IdentifiedChain

    /// The parts of a long descriptor matter where it is written.
    static let cases = Chain.all.flatMap { chain in
        Chain.Work.allCases.filter { chain.suffix.isEmpty || [.commit, .commitDeep].contains($0) }
            .map { (chain, $0) }
    }

    @Test("stopped anywhere, the top opens and reads as before", .timeLimit(.minutes(2)), arguments: cases)
    func stopped(chain: Chain, work: Chain.Work) throws {
        let files = try chain.make().files
        try checkInterruption(
            of: files, action: { try chain.run(work, $0) },
            verify: { store in
                let found = try chain.contents(of: "top", store)
                guard found == Chain.top else { throw Mismatch("the top reads \(found)") }
                // The job goes on where it was stopped.
                do { try chain.run(work, store) } catch let error as BlockError {
                    guard work == .commitMiddle || work == .streamMiddle, error.kind == .notFound else {
                        throw error
                    }
                }
                guard try chain.contents(of: "top", store) == Chain.top else { throw Mismatch("done again") }
            })
    }

    /// VHD's identities do not change with the contents.
    static let strict = Chain.all.filter { $0.format != "vpc" }

    @Test(arguments: strict, [Chain.Work.commitMiddle, .commitDeep])
    func otherOverlaysAreRefusedAfterwards(_ chain: Chain, _ work: Chain.Work) throws {
        let store = try chain.make()
        try chain.create("cousin", over: "middle", in: store, units: [:])
        try chain.run(work, store)
        let changed = work == .commitDeep ? ["sibling", "cousin"] : ["sibling"]
        for name in changed {
            let error = #expect(throws: BlockError.self) { try chain.open(name, store) }
            #expect(error?.kind == .corrupt && error?.hint?.contains("'parent-check=off'") == true)
            #expect(throws: BlockError.self) {
                try chain.open(name, store, readOnly: false, ["parent-check": "off"])
            }
            let warnings = Warnings()
            let node = try chain.open(name, store, ["parent-check": "off"], warn: { warnings.add($0) })
            _ = try chain.contents(node)
            try node.close()
            #expect(warnings.all.count == 1 && warnings.all[0].contains("'"), "\(warnings.all)")
        }
        if work == .commitMiddle { _ = try chain.contents(of: "cousin", store) }
    }

    @Test(arguments: strict) func theOptionReachesLayersBelow(_ chain: Chain) throws {
        let store = try chain.make()
        let node = try chain.open("base", store, readOnly: false)
        try node.write([9 as UInt8].span.bytes, at: 0)
        try node.close()
        let error = #expect(throws: BlockError.self) { try chain.open("top", store) }
        #expect(error?.hint?.contains("'backing.parent-check=off'") == true, "\(String(describing: error))")
        let top = try chain.open("top", store, ["backing.parent-check": "off"])
        #expect(try top.readBytes(at: 0, count: 2) == [9, 1])
        try top.close()
        #expect(throws: BlockError.self) { try chain.open("base", store, ["backing.parent-check": "off"]) }
        #expect(throws: BlockError.self) { try chain.open("top", store, ["parent-check": "perhaps"]) }
    }

    /// What leaves the disk as it is leaves its identity.
    @Test(arguments: strict) func nothingChangesNothing(_ chain: Chain) throws {
        let store = try chain.make()
        for change in Self.noChanges {
            let node = try chain.open("base", store, readOnly: false)
            try change(node)
            try node.close()
            #expect(try chain.contents(of: "top", store) == Chain.top)
        }
        for repair in [RepairMode.leaks, .all] {
            let settings = OpenSettings(readOnly: false, withoutBacking: true, forCheck: true)
            for name in ["base", "middle"] {
                let node = try chain.opener(store).open(
                    name + chain.suffix, format: chain.format, settings: settings)
                _ = try (node.format as? any Checkable)?.check(repair: repair) { _ in }
                try node.close()
            }
            #expect(try chain.contents(of: "top", store) == Chain.top)
        }
        // Nothing to commit.
        try chain.create("empty", over: "base", in: store, units: [:])
        let empty = try chain.open("empty", store, readOnly: false)
        try CommitJob(top: empty).run(JobControl())
        try empty.close()
        #expect(try chain.contents(of: "sibling", store) == [1, 1, 0, 0, 9])
        let node = try chain.open("base", store, readOnly: false)
        try node.resize(to: node.length() + chain.unit)
        try node.close()
        #expect(throws: BlockError.self) { try chain.open("top", store) }
    }

    static let noChanges: [@Sendable (BlockNode) throws -> Void] = [
        { node in try node.flush() },
        { node in try node.resize(to: node.length()) },
        { node in try node.write([UInt8]().span.bytes, at: 0) },
        { node in try node.discard(at: 0, count: 0) },
        { node in try node.writeZeroes(at: node.length() / 5 * 4, count: node.length() / 5) },
        { node in
            try node.reopen(readOnly: true)
            try node.reopen(readOnly: false)
        },
    ]

    /// A base that was being written to when its program was killed has a log; reading it, or opening it for
    /// writing, leaves what its overlay knows it by.
    @Test func aLogThatIsReplayedChangesNothing() throws {
        let chain = Chain.all[0]
        let store = try chain.make()
        let node = try chain.open("middle", store, readOnly: false)
        try node.write([5 as UInt8].span.bytes, at: 4 * chain.unit)
        try node.flush()
        let killed = TestStore(store.files)
        try chain.create("over", over: "middle", in: killed, units: [:])
        let opened = try chain.open("middle", killed, readOnly: false)
        try opened.close()
        #expect(killed["middle"] != store["middle"])
        let over = try chain.open("over", killed)
        #expect(try over.readBytes(at: 4 * chain.unit, count: 2) == [5, 0])
    }
}

/// What an opener warned of. Thread-safe.
private final class Warnings: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }
    func add(_ line: String) { lines.withLock { $0.append(line) } }
}
