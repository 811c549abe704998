import BlockCore
import Synchronization

/// Virtual PC's and Hyper-V's disk images (VHD), which QEMU calls vpc: fixed, dynamic and differencing.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. Options: `force_size_calc` (`chs` or `current_size`), by which of its two sizes the disk
/// goes, whatever program made it.
public final class VhdDriver: FormatDriver, BackingChecking {
    public static let name = "vpc"
    public static let optionsInName = ["force_size_calc"]
    public static let aliases = ["vhd"]

    /// What the driver keeps of an image.
    enum Body: Sendable {
        case fixed(Monitor<VhdFixed>)
        case dynamic(Monitor<VhdState>)
    }

    let file: BlockNode
    let request: OpenRequest
    let body: Body
    let blockBytes: Int
    let sizeRule: VhdFooter.SizeRule?
    private let size: Atomic<Int>
    private let parent: Mutex<BackingReference?>

    private init(_ request: OpenRequest, _ options: inout OptionTree) throws(BlockError) {
        let settings = request.settings
        self.request = request
        file = request.file
        sizeRule = try Self.sizeRule(options.take("force_size_calc"))
        let layout = try VhdLayout.read(file, leniently: settings.forCheck, sizeBy: sizeRule)
        let virtualSize = try layout.footer.virtualSize(by: sizeRule)
        size = Atomic(virtualSize)
        parent = Mutex(try layout.parent(in: file))
        guard let header = layout.header else {
            blockBytes = 1
            let fixed = VhdFixed(layout)
            if !settings.forCheck { try fixed.checkLength(virtualSize) }
            body = .fixed(Monitor(fixed))
            return
        }
        blockBytes = header.blockBytes
        var state = try VhdState(
            file: file, layout: layout, header: header, isReadOnly: settings.readOnly)
        if !settings.metadataOnly && !settings.forCheck { try state.checkRepeats() }
        if !settings.forCheck {
            if !header.isIntact { request.warn(Self.suspectHeader) }
            if !settings.readOnly { try state.prepareForWriting() }
        }
        body = .dynamic(Monitor(state))
    }

    private static let suspectHeader =
        "The checksum of the VHD image's header is wrong; 'check -r all' repairs it"

    private static func sizeRule(_ text: String?) throws(BlockError) -> VhdFooter.SizeRule? {
        guard let text else { return nil }
        guard let rule = VhdFooter.SizeRule(rawValue: text) else {
            throw BlockError(.invalidArgument, "Invalid size calculation algorithm")
        }
        return rule
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        header.part(0..<Vhd.cookie.count)?.array == Vhd.cookie ? 100 : 0
    }

    /// Fixed disks have nothing but their footer to tell them.
    public static var suffixesKnownByEnd: [String] { [".vhd"] }

    /// Fixed disks only: what a guest writes at the end of its disk must not make a host look for a parent.
    public static func probe(tail: RawSpan, filename: String) -> Int {
        for count in [Vhd.footerBytes, Vhd.oldFooterBytes] {
            let end = tail.byteCount
            guard let bytes = tail.part(max(0, end - count)..<end)?.array,
                let footer = VhdFooter.find(bytes)
            else { continue }
            return footer.isIntact && footer.type == .fixed ? 100 : 0
        }
        return 0
    }

    public static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> VhdDriver
    {
        do throws(BlockError) {
            let driver = try VhdDriver(request, &options)
            try driver.checkParentIsNamed()
            return driver
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    /// Without its parent, a differencing image would read, and be completed by writes, as zeroes; any other
    /// would hide what it has not.
    private func checkParentIsNamed() throws(BlockError) {
        var child: VhdHeader?
        if case .dynamic(let state) = body { child = state.withLock { $0.isDifferencing ? $0.header : nil } }
        let settings = request.settings
        if child == nil, request.namesBacking {
            throw BlockError(.invalidArgument, "Only differencing VHD images have a backing file")
        }
        guard let child, backing == nil, !request.namesBacking else { return }
        if settings.metadataOnly || settings.withoutBacking || settings.forCheck { return }
        throw BlockError(
            .unsupported,
            "The image is based on another one, with the UUID \(child.parentUUID.text), and does "
                + "not name its file; name it as 'backing.file.filename'")
    }

    public var virtualSize: Int { size.load(ordering: .relaxed) }
    public var writeGranularity: Int { blockBytes }
    /// Zeroed blocks stay in the table, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle {
        guard case .dynamic(let state) = body else { return [] }
        return state.withLock { $0.isDifferencing } ? .unitsAreWhole : [.unitsAreWhole, .allIsPresent]
    }
    public var isTransparent: Bool { if case .fixed = body { true } else { false } }
    public var backing: BackingReference? { parent.withLock { $0 } }

    func setVirtualSize(_ bytes: Int) { size.store(bytes, ordering: .relaxed) }
    func setBacking(_ reference: BackingReference?) { parent.withLock { $0 = reference } }

    /// Runs `body` when no block is being filled.
    func exclusively<Result>(
        _ state: Monitor<VhdState>, _ body: (inout VhdState) throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        try state.wait(until: { $0.fillsInFlight == 0 }) { (state) throws(BlockError) in
            try state.finishWrites()
            return try body(&state)
        }
    }

    /// The parent must be the image over which this one was made. An UUID of zeroes states nothing. The UUID
    /// of an image stays when it is written to.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard case .dynamic(let state) = body else { return }
        let (isChild, expected) = state.withLock { ($0.isDifferencing, $0.header.parentUUID) }
        guard isChild, expected != VhdParent.unknown else { return }
        guard let other = backing.unfiltered.format as? VhdDriver else {
            // Somebody who names another format knows why.
            if request.namesBacking { return }
            throw BlockError(
                .corrupt, "The parent '\(backing.filename)' is not a VHD image", path: file.filename)
        }
        let found = other.footer.uuid
        guard found == expected else {
            throw BlockError(
                .corrupt,
                "The parent '\(backing.filename)' has the UUID \(found.text), not \(expected.text) as when "
                    + "this image was made over it", path: file.filename)
        }
    }

    var footer: VhdFooter {
        switch body {
        case .fixed(let fixed): fixed.withLock { $0.footer }
        case .dynamic(let state): state.withLock { $0.footer }
        }
    }

    // MARK: Mapping

    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        guard case .dynamic(let state) = body else {
            return Extent(.data(hostOffset: offset), length: limit)
        }
        return try state.withLock { (state) throws(BlockError) in
            let block = offset / blockBytes
            let inside = offset % blockBytes
            guard let place = state.place(of: block) else {
                return Extent(.unallocated, length: unallocated(from: block, inside, limit, state))
            }
            let end = min(blockBytes, inside + limit)
            let data = Extent.Status.data(hostOffset: place + state.header.bitmapBytes + inside)
            guard state.isDifferencing else { return Extent(data, length: end - inside) }
            // A lost bitmap would let the parent show through.
            try file.requireStored(at: place, count: state.header.bitmapBytes)
            let sectors = (end + Vhd.sectorBytes - 1) / Vhd.sectorBytes
            let run = try state.run(at: place, inside / Vhd.sectorBytes, sectors)
            let length = min(end, run.end * Vhd.sectorBytes) - inside
            return Extent(run.isSet ? data : .unallocated, length: length)
        }
    }

    /// How far there are no blocks.
    private func unallocated(from block: Int, _ inside: Int, _ limit: Int, _ state: VhdState) -> Int {
        var end = block + 1
        while end < state.table.count, (end - block) * blockBytes - inside < limit,
            state.table[end] == Vhd.unallocated
        {
            end += 1
        }
        return min(limit, (end - block) * blockBytes - inside)
    }

    // MARK: Life

    public func flush() throws(BlockError) {
        switch body {
        case .fixed(let fixed):
            try fixed.withLock { (fixed) throws(BlockError) in try fixed.settle(file) }
            try file.flush()
        case .dynamic(let state): try state.flushTables()
        }
    }

    public func close() throws(BlockError) {
        switch body {
        case .fixed(let fixed): try fixed.withLock { (fixed) throws(BlockError) in try fixed.settle(file) }
        case .dynamic(let state):
            try exclusively(state) { (state) throws(BlockError) in try state.finish() }
        }
    }

    public func willReopen(readOnly: Bool) throws(BlockError) {
        guard readOnly else { return }
        switch body {
        case .fixed(let fixed): try fixed.withLock { (fixed) throws(BlockError) in try fixed.settle(file) }
        case .dynamic(let state):
            try exclusively(state) { (state) throws(BlockError) in
                try state.finish()
                state.isReadOnly = true
            }
        }
    }

    public func didReopen(readOnly: Bool) throws(BlockError) {
        guard !readOnly, case .dynamic(let state) = body else { return }
        try exclusively(state) { (state) throws(BlockError) in
            try state.prepareForWriting()
            state.isReadOnly = false
        }
    }
}

extension VhdState {
    /// Writes back all that is left to write, and gives back what the file has too much.
    fileprivate mutating func finish() throws(BlockError) {
        if isReadOnly { return }
        try? fillGaps()
        if hasChanges { try commit() }
        if hasReserve { trim() }
    }
}

extension VhdLayout {
    /// The parent that a differencing image names.
    fileprivate func parent(in file: BlockNode) throws(BlockError) -> BackingReference? {
        guard footer.type == .differencing, let header else { return nil }
        let length = try file.length()
        var spellings: [String: [UInt8]] = [:]
        for locator in header.locators where locator.offset <= length - locator.length {
            let bytes = try file.readBytes(at: locator.offset, count: locator.length)
            spellings[locator.platform] = spellings[locator.platform] ?? bytes
        }
        let paths = VhdParent.paths(of: spellings, name: header.parentName)
        guard let stated = paths.first else { return nil }
        // Without a UUID nothing tells that another file is the parent.
        let others = header.parentUUID == VhdParent.unknown ? [] : Array(paths.dropFirst())
        return BackingReference(filename: stated, format: VhdDriver.name, otherNames: others)
    }
}
