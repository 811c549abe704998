import BlockCore

/// An open image of either kind: a dynamic or differencing disk with tables, or a fixed disk.
///
/// Not thread-safe: the session's lock guards it.
struct VhdImage: SessionState {
    /// A dynamic or differencing disk's tables; `nil` for a fixed disk.
    var dynamic: VhdState?
    /// The state of a fixed disk; unused when ``dynamic`` is set.
    var fixed: VhdFixed
    /// The parent that the image names.
    var backing: BackingReference?

    private static let suspectHeader =
        "The checksum of the VHD image's header is wrong; 'check -r all' repairs it"

    /// Reads footers and header, and prepares the image for the requested access.
    ///
    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `limit`; `io`.
    init(_ request: OpenRequest, sizeBy rule: VhdFooter.SizeRule?) throws(BlockError) {
        let (file, settings) = (request.file, request.settings)
        let layout = try VhdLayout.read(file, leniently: settings.forCheck, sizeBy: rule)
        _ = try layout.footer.virtualSize(by: rule)
        backing = try layout.parent(in: file)
        fixed = VhdFixed(file: file, layout: layout, sizeBy: rule, isReadOnly: settings.readOnly)
        guard let header = layout.header else {
            if !settings.forCheck { try fixed.checkLength() }
            return
        }
        var state = try VhdState(
            file: file, layout: layout, header: header, sizeBy: rule, isReadOnly: settings.readOnly)
        if !settings.metadataOnly && !settings.forCheck { try state.checkRepeats() }
        if !settings.forCheck {
            if !header.isIntact { request.warn(Self.suspectHeader) }
            if !settings.readOnly { try state.prepareForWriting() }
        }
        dynamic = state
    }

    var footer: VhdFooter { dynamic?.footer ?? fixed.footer }
    var virtualSize: Int { dynamic?.virtualSize ?? fixed.virtualSize }

    var isReadOnly: Bool {
        get { dynamic?.isReadOnly ?? fixed.isReadOnly }
        set {
            dynamic?.isReadOnly = newValue
            fixed.isReadOnly = newValue
        }
    }

    var writes: TableWrites? {
        get { dynamic == nil ? fixed.writes : dynamic?.writes }
        set { if dynamic == nil { fixed.writes = newValue } else { dynamic?.writes = newValue } }
    }

    mutating func run(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        if let extent = try dynamic?.run(at: offset, limit: limit) { return extent }
        return fixed.run(at: offset, limit: limit)
    }

    mutating func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        if let grant = try dynamic?.grant(guest, over: backingEnd) { return grant }
        return fixed.grant(guest, over: backingEnd)
    }

    mutating func link(_ grant: inout WriteGrant) throws(BlockError) { try dynamic?.link(&grant) }
    mutating func giveBack(_ grant: WriteGrant) { dynamic?.giveBack(grant) }

    mutating func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        if let step = try dynamic?.clear(range, mode, over: backingEnd) { return step }
        return fixed.clear(range, mode, over: backingEnd)
    }

    mutating func prepareForWriting() throws(BlockError) { try dynamic?.prepareForWriting() }

    mutating func commit() throws(BlockError) {
        if dynamic == nil { try fixed.commit() } else { try dynamic?.commit() }
    }

    mutating func finish() throws(BlockError) {
        if dynamic == nil { try fixed.finish() } else { try dynamic?.finish() }
    }

    mutating func takeChanges() throws(BlockError) -> TableWrites? {
        if dynamic == nil { return try fixed.takeChanges() }
        return try dynamic?.takeChanges()
    }

    mutating func settle(failed: Bool) { dynamic?.settle(failed: failed) }
}
