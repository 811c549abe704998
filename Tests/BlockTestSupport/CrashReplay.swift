import BlockCore

/// Goes through the log of a ``TestStore`` and answers what its files may hold when the power fails.
///
/// A sector of 512 bytes is written whole or not at all. What was changed since a file's last flush may be
/// there or not, sector by sector, but for changes of the length, which happen in order.
public struct CrashReplay: Sendable {
    private var current: [String: SparseBytes]
    private var durable: [String: SparseBytes]
    private var pending: [String: [StorageEvent]] = [:]
    private let log: [StorageEvent]
    /// How many events have happened.
    public private(set) var position = 0

    /// - Parameters:
    ///   - files: all files, durable, before the first event.
    ///   - log: what happened then.
    public init(files: [String: SparseBytes], log: [StorageEvent]) {
        current = files
        durable = files
        self.log = log
    }

    /// Moves on to the moment after `count` events.
    public mutating func advance(to count: Int) {
        while position < min(count, log.count) {
            let event = log[position]
            position += 1
            let name = event.file
            if case .flush = event {
                durable[name] = current[name]
                pending[name] = nil
            } else {
                current[name, default: SparseBytes()].apply(event)
                pending[name, default: []].append(event)
            }
        }
    }

    /// The files when the process is killed now: all that was written is there.
    public var afterKill: [String: SparseBytes] { current }

    /// The files after a power failure now: of what was not flushed only a part is there.
    public func afterPowerFailure(_ random: inout SeededRandom) -> [String: SparseBytes] {
        var files: [String: SparseBytes] = [:]
        let keep = [0.1, 0.5, 0.9][random.number(in: 0..<3)]
        for name in current.keys.sorted() {
            var file = PartialFile(durable[name] ?? SparseBytes(), keep: keep)
            let limit = lengthKnownToFileSystem(pending[name] ?? [], keep, &random)
            for (index, event) in (pending[name] ?? []).enumerated() {
                file.apply(event, lengthIsKnown: index < limit, &random)
            }
            files[name] = file.contents
        }
        return files
    }

    /// Up to which of the pending events the file system has written down the file's length.
    private func lengthKnownToFileSystem(
        _ events: [StorageEvent], _ keep: Double, _ random: inout SeededRandom
    ) -> Int {
        Double.random(in: 0..<1, using: &random) < keep
            ? events.count : random.number(in: 0..<events.count + 1)
    }

}

/// A file with some of the pending changes.
private struct PartialFile {
    var contents: SparseBytes
    /// How likely a change has arrived.
    let keep: Double
    /// Sectors that miss a change: later changes of a part of them are missing too.
    private var stale: Set<Int> = []

    init(_ contents: SparseBytes, keep: Double) {
        self.contents = contents
        self.keep = keep
    }

    mutating func apply(_ event: StorageEvent, lengthIsKnown: Bool, _ random: inout SeededRandom) {
        switch event {
        case .flush: break
        case .truncate(_, let length):
            if lengthIsKnown { contents.resize(to: length) }
        case .write(_, let offset, _):
            store(event, offset..<offset + event.count, lengthIsKnown, &random)
        case .zero(_, let range):
            store(event, range, lengthIsKnown, &random)
        }
    }

    /// Stores all of the change, nothing of it, or a mixture by sectors.
    private mutating func store(
        _ event: StorageEvent, _ range: Range<Int>, _ mayGrow: Bool, _ random: inout SeededRandom
    ) {
        let whole = mayGrow ? range : range.clamped(to: 0..<contents.count)
        let isTorn = random.number(in: 0..<4) == 0
        let keepsAll = Double.random(in: 0..<1, using: &random) < keep
        var start = whole.lowerBound
        while start < whole.upperBound {
            let sector = start / Pattern.sectorBytes
            let end = min((sector + 1) * Pattern.sectorBytes, whole.upperBound)
            let arrives = isTorn ? Double.random(in: 0..<1, using: &random) < keep : keepsAll
            let isFull = end - start == Pattern.sectorBytes
            if arrives && (isFull || !stale.contains(sector)) {
                contents.apply(event.part(start..<end))
                stale.remove(sector)
            } else {
                stale.insert(sector)
            }
            start = end
        }
    }
}

extension StorageEvent {
    /// The length in bytes of what is written or zeroed.
    fileprivate var count: Int {
        switch self {
        case .write(_, _, let bytes): bytes.count
        case .zero(_, let range): range.count
        default: 0
        }
    }

    /// The change to `range`, which lies in what is written or zeroed.
    fileprivate func part(_ range: Range<Int>) -> StorageEvent {
        switch self {
        case .write(let file, let offset, let bytes):
            .write(
                file: file, offset: range.lowerBound,
                bytes: Array(bytes[range.lowerBound - offset..<range.upperBound - offset]))
        case .zero(let file, _): .zero(file: file, range: range)
        default: self
        }
    }
}
