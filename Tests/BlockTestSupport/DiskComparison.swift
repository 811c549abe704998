import BlockCore
import Foundation

/// Compares an open image with what it may hold.
enum DiskComparison {
    /// How much is read at a time.
    private static let windowBytes = 1 << 20

    /// Checks that the disk is one of `states`, or any mixture of them by sectors; the first is the
    /// likeliest.
    ///
    /// - Parameter range: look only there; `nil` looks at everything, also the size and the list of
    ///   snapshots.
    /// - Returns: what the disk really holds.
    static func accept(
        _ node: BlockNode, from states: [ReferenceDisk], in range: Range<Int>? = nil
    ) throws -> ReferenceDisk {
        var found = try range == nil ? shape(node, states) : states[0]
        let whole = range ?? 0..<found.size
        var start = whole.lowerBound
        while start < whole.upperBound {
            let end = min(start + windowBytes, whole.upperBound)
            let bytes = try node.readBytes(at: start, count: end - start)
            if bytes != found.read(start..<end) {
                try acceptSectors(bytes, at: start, from: states)
                found.adopt(bytes, at: start)
            }
            start = end
        }
        return found
    }

    /// The state whose size and snapshots the image has, with the contents of the first.
    private static func shape(_ node: BlockNode, _ states: [ReferenceDisk]) throws -> ReferenceDisk {
        let size = try node.length()
        let names = try (node.format as? any SnapshotCapable)?.snapshots().map(\.name) ?? []
        guard states.contains(where: { $0.size == size }) else {
            throw Mismatch("the size is \(size), not \(states.map(\.size).uniqued)")
        }
        guard var found = states.last(where: { $0.snapshots.map(\.name) == names }) else {
            throw Mismatch(
                "the snapshots are \(names), not \(states.map { $0.snapshots.map(\.name) }.uniqued)")
        }
        found.replaceContents(states[0].contents)
        found.resize(to: size)
        return found
    }

    private static func acceptSectors(_ bytes: [UInt8], at offset: Int, from states: [ReferenceDisk]) throws {
        var start = offset
        let stop = offset + bytes.count
        while start < stop {
            let end = min((start / Pattern.sectorBytes + 1) * Pattern.sectorBytes, stop)
            let sector = Array(bytes[start - offset..<end - offset])
            let fits = states.contains { $0.contents.read(at: start, count: end - start) == sector }
            guard fits else { throw Mismatch(describe(sector, at: start, states)) }
            start = end
        }
    }

    private static func describe(_ sector: [UInt8], at offset: Int, _ states: [ReferenceDisk]) -> String {
        let expected = states.map { $0.contents.read(at: offset, count: sector.count) }
        let byte = (0..<sector.count).first { sector[$0] != expected[0][$0] } ?? 0
        let wanted = expected.map { hex($0, byte) }.uniqued.joined(separator: " or ")
        return "the byte at \(offset + byte) and the next are \(hex(sector, byte)), not \(wanted)"
    }

    private static func hex(_ bytes: [UInt8], _ start: Int) -> String {
        bytes[start...].prefix(8).map { String(format: "%02x", $0) }.joined()
    }

    /// Checks the closed image: no corruption, and no leaks unless they are allowed.
    static func checkStructure(
        _ configuration: FormatConfiguration, _ store: TestStore, leaksAllowed: Bool
    ) throws {
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: true, forCheck: true))
        defer { try? node.close() }
        guard let checkable = node.format as? any Checkable else { return }
        var lines: [String] = []
        let result = try checkable.check(repair: .none) { lines.append($0) }
        guard result.corruptions == 0, result.checkErrors == 0, leaksAllowed || result.leaks == 0 else {
            throw Mismatch(
                "check found \(result.corruptions) corruptions, \(result.leaks) leaks and "
                    + "\(result.checkErrors) errors: " + lines.prefix(8).joined(separator: "; "))
        }
    }

    /// Repairs the closed image.
    static func repair(_ configuration: FormatConfiguration, _ store: TestStore) throws {
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false, forCheck: true))
        if let checkable = node.format as? any Checkable { _ = try checkable.check(repair: .all) { _ in } }
        try node.close()
    }

    /// Compares a snapshot inside the closed image with the disk as it was.
    static func compareSnapshot(
        _ snapshot: ReferenceDisk.Snapshot, _ configuration: FormatConfiguration, _ store: TestStore
    ) throws {
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: true))
        defer { try? node.close() }
        guard let capable = node.format as? any SnapshotCapable else { return }
        try capable.selectSnapshot(id: nil, name: snapshot.name)
        let common = min(try node.length(), snapshot.contents.count)
        var model = ReferenceDisk(size: snapshot.contents.count)
        model.replaceContents(snapshot.contents)
        do { _ = try accept(node, from: [model], in: 0..<common) } catch let mismatch as Mismatch {
            throw Mismatch("snapshot '\(snapshot.name)': \(mismatch)")
        }
    }
}

extension Array where Element: Equatable {
    /// The different elements in the order of their first appearance.
    var uniqued: [Element] {
        reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }
}
