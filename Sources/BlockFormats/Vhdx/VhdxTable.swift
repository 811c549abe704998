import BlockCore

/// The BAT; its used pages are in memory. Not thread-safe: the driver's lock guards it.
struct VhdxTable: Sendable {
    static let entriesPerPage = Vhdx.pageBytes / 8
    /// The largest number of clean pages in memory: 8 MiB.
    private static let keptPages = 2048
    /// The number of changed pages from which they should be written.
    private static let crowd = 512

    /// The offset in the file, in bytes.
    let offset: Int
    private var pages: [Int: [UInt64]] = [:]
    private var dirty: Set<Int> = []
    /// Changed pages that a flush is writing without the lock.
    private var held: Set<Int> = []

    init(offset: Int) { self.offset = offset }

    var isDirty: Bool { !dirty.isEmpty }
    /// The number of changed pages.
    var dirtyCount: Int { dirty.count }
    /// Whether the changed pages should be written before more are changed.
    var isCrowded: Bool { dirty.count >= Self.crowd }

    /// The entries of a page, which is read if it is not in memory.
    mutating func page(_ number: Int, _ view: VhdxView) throws(BlockError) -> [UInt64] {
        if let page = pages[number] { return page }
        let bytes = try view.read(at: offset + number * Vhdx.pageBytes, count: Vhdx.pageBytes)
        let span = bytes.span.bytes
        var entries = [UInt64](repeating: 0, count: Self.entriesPerPage)
        for index in 0..<Self.entriesPerPage { entries[index] = span.number64(index * 8) }
        if pages.count - dirty.count - held.count >= Self.keptPages {
            pages = pages.filter { dirty.contains($0.key) || held.contains($0.key) }
        }
        pages[number] = entries
        return entries
    }

    /// Entry number `index`, which must be inside the table.
    mutating func entry(_ index: Int, _ view: VhdxView) throws(BlockError) -> UInt64 {
        try page(index / Self.entriesPerPage, view)[index % Self.entriesPerPage]
    }

    /// The number of entries from `index` on whose values begin with `value` and grow by `step`.
    mutating func run(
        from index: Int, atMost most: Int, of value: UInt64, step: UInt64, _ view: VhdxView
    ) throws(BlockError) -> Int {
        var count = 0
        var wanted = value
        while count < most {
            let first = (index + count) % Self.entriesPerPage
            let last = min(Self.entriesPerPage, first + most - count)
            let page = try page((index + count) / Self.entriesPerPage, view)
            var next = first
            while next < last, page[next] == wanted {
                next += 1
                wanted &+= step
            }
            count += next - first
            if next < last { break }
        }
        return count
    }

    mutating func set(_ index: Int, to value: UInt64, _ view: VhdxView) throws(BlockError) {
        let number = index / Self.entriesPerPage
        _ = try page(number, view)
        pages[number, default: []][index % Self.entriesPerPage] = value
        dirty.insert(number)
    }

    /// The changed pages with the lowest numbers, as bytes of the file.
    func changes(atMost count: Int) -> [VhdxPage] {
        dirty.sorted().prefix(count).map { number in
            VhdxPage(
                offset: offset + number * Vhdx.pageBytes, bytes: Self.bytes(of: pages[number] ?? []))
        }
    }

    /// Notes that these pages are written.
    mutating func written(_ changes: [VhdxPage]) {
        for change in changes { dirty.remove((change.offset - offset) / Vhdx.pageBytes) }
    }

    /// Takes out all changed pages, to be written without the lock. They are held until ``settle(failed:)``.
    mutating func takeChanges() -> [VhdxPage] {
        let pages = changes(atMost: dirty.count)
        (held, dirty) = (dirty, [])
        return pages
    }

    /// Releases the pages that were taken out; after a failed write they count as changed again.
    mutating func settle(failed: Bool) {
        if failed { dirty.formUnion(held) }
        held = []
    }

    /// Notes that all pages are written.
    mutating func forgetChanges() { dirty = [] }

    /// Entries as bytes.
    static func bytes(of entries: [UInt64]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: Vhdx.pageBytes)
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        for (index, entry) in entries.enumerated() { span.storeLittleEndian(entry, at: index * 8) }
        return result
    }
}
