import BlockCore

/// Virtual PC's and Hyper-V's disk images (VHD), which QEMU calls vpc: fixed, dynamic and differencing.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. Options: `force_size_calc` (`chs` or `current_size`) chooses which of the two stored
/// sizes is the disk's, regardless of the creator.
public final class VhdDriver: SessionFormat, BackingChecking, ParentIdentifying {
    public static let name = "vpc"
    public static let optionsInName = ["force_size_calc"]
    public static let aliases = ["vhd"]

    let file: BlockNode
    let request: OpenRequest
    let session: Session<VhdImage>
    /// 1 for fixed disks.
    let blockBytes: Int
    let isDynamic: Bool

    private init(_ request: OpenRequest, _ options: inout OptionTree) throws(BlockError) {
        self.request = request
        file = request.file
        let image = try VhdImage(request, sizeBy: try Self.sizeRule(options.take("force_size_calc")))
        isDynamic = image.dynamic != nil
        blockBytes = image.dynamic?.header.blockBytes ?? 1
        session = Session(image)
    }

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

    /// A fixed disk is recognised by its footer only.
    public static var suffixesKnownByEnd: [String] { [".vhd"] }

    /// Matches fixed disks only: bytes that a guest writes to the end of its disk must not make the host open
    /// a parent.
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

    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `limit`, `invalidArgument`; `io`.
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

    /// Refuses a differencing image without its parent, whose unallocated sectors would read as zeroes, and a
    /// parent for any other image, which would hide it.
    private func checkParentIsNamed() throws(BlockError) {
        let child = self.child
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

    public var writeGranularity: Int { blockBytes }
    /// Zeroed blocks keep their places, as holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle {
        guard isDynamic else { return [] }
        return child != nil ? .unitsAreWhole : [.unitsAreWhole, .allIsPresent]
    }
    public var isTransparent: Bool { !isDynamic }
    public var zeroGranularity: Int { Vhd.sectorBytes }
    public var discardGranularity: Int { Vhd.sectorBytes }

    var footer: VhdFooter { session.withLock { $0.footer } }
    /// The header, if this is a differencing disk.
    var child: VhdHeader? {
        session.withLock { image in image.dynamic.flatMap { $0.isDifferencing ? $0.header : nil } }
    }

    /// The footer: its UUID identifies the image, and a new child copies further fields.
    public var parentIdentity: [UInt8] { footer.bytes }

    /// The parent must be the image over which this one was made.
    ///
    /// The check is skipped for a UUID of zeroes. It does not detect changes of the parent, because its UUID
    /// stays.
    ///
    /// - Throws: `corrupt` for another image.
    public func checkBacking(_ backing: BlockNode) throws(BlockError) {
        guard let expected = child?.parentUUID, expected != VhdParent.unknown else { return }
        guard let parent = VhdFooter(parentIdentity: backing) else {
            // A parent of another format is accepted if the caller names it.
            if request.namesBacking { return }
            throw BlockError(
                .corrupt, "The parent '\(backing.filename)' is not a VHD image", path: file.filename)
        }
        let found = parent.uuid
        guard found == expected else {
            throw BlockError(
                .corrupt,
                "The parent '\(backing.filename)' has the UUID \(found.text), not \(expected.text) as when "
                    + "this image was made over it", path: file.filename)
        }
    }
}
