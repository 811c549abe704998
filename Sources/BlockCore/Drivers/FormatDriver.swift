/// The backing file as an image names it.
public struct BackingReference: Sendable, Equatable {
    /// The name as stored: relative names are meant relative to the image's folder.
    public var filename: String
    /// The format as stored; `nil` means "guess".
    public var format: String?
    /// Names to try in turn when the first leads nowhere, for formats whose parents are known by an identity.
    public var otherNames: [String]

    public init(filename: String, format: String?, otherNames: [String] = []) {
        self.filename = filename
        self.format = format
        self.otherNames = otherNames
    }

    /// Whether both state the same.
    public static func == (left: BackingReference, right: BackingReference) -> Bool {
        left.filename.isSameName(as: right.filename) && left.format == right.format
    }
}

/// How the map of a format for people differs from what its driver says, so that it is QEMU's.
public struct MapStyle: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// Units that are allocated are data, also where the file has holes for them.
    public static let unitsAreWhole = MapStyle(rawValue: 1)
    /// What is not allocated is present, where nothing lies below: QEMU's driver knows no backing files.
    public static let allIsPresent = MapStyle(rawValue: 2)
}

/// What few formats differ from all others in.
public struct FormatTraits: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// An image is its file's bytes as they are. Without metadata that could change under a reader, a
    /// read-only open may share the file with writers; and such a format over a file names the same bytes.
    public static let plainBytes = FormatTraits(rawValue: 1)
    /// Space that was never written does not read as zeroes, in a new image and where it grew.
    public static let unwrittenIsUndefined = FormatTraits(rawValue: 2)
}

/// An image format: a mapping from guest offsets to bytes in a file.
///
/// The main answer is ``extent(at:limit:)``: ``BlockNode`` reads plain data, zeroes and the backing chain
/// from it by itself, once for all formats. All offsets and lengths are in bytes. Every call blocks its
/// thread and may come from any thread. The node has checked bounds and read-only, and guarantees that no
/// other request runs in the ``writeGranularity``-rounded range of a write, discard or zeroing. A driver
/// guards its metadata with a lock of its own, which it does not hold while it reads or writes guest data.
/// What a driver can do beyond this, it says by conforming to the protocols in Capabilities.swift.
public protocol FormatDriver: AbilityKnowing {
    /// The name in `-f` and `driver=`, such as `qcow2`.
    static var name: String { get }
    /// Other names for it, such as `vhd` for `vpc`.
    static var aliases: [String] { get }
    /// How sure the format is that this is one of its images: 0 (no) to 100 (its magic and version).
    /// `header` is the start of the file, up to 2048 bytes; `filename` may help.
    static func probe(_ header: RawSpan, filename: String) -> Int
    /// The same by the end of the file: `tail` is its last 1024 bytes, fewer of a shorter file. More than 0
    /// only where the bytes leave no doubt: with another format's start the file is opened as neither.
    static func probe(tail: RawSpan, filename: String) -> Int
    /// Endings of the names of images that are known by their end alone, such as `.dmg`: a file so named
    /// without that end is not taken for a raw disk when no format is named.
    static var suffixesKnownByEnd: [String] { get }
    /// What few formats differ from all others in.
    static var traits: FormatTraits { get }
    /// Opens an image; takes its own keys out of `options`. Further files (a data file, extents) are opened
    /// through ``OpenRequest/openChild(_:otherNames:role:purpose:options:)`` and nowhere else.
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> Self
    /// The open options without which a file's name does not mean the same disk.
    static var optionsInName: [String] { get }
    /// The options that an image, opened with `old`, is reopened with when `new` change.
    static func joined(_ new: OptionTree, over old: OptionTree) -> OptionTree

    /// The size of the disk that the guest sees.
    var virtualSize: Int { get }
    /// The backing file that the image names.
    var backing: BackingReference? { get }
    /// Requests are serialised in units of this size: the cluster size. A power of two, or 1.
    var writeGranularity: Int { get }
    /// Whether `extent` says "data" of ranges that may be holes in the file, so that the file is asked too.
    var dataMayBeHoles: Bool { get }
    /// What a map for people shows otherwise than ``extent(at:limit:)`` says.
    var mapStyle: MapStyle { get }

    /// Whether the file's own holes and data are the disk's, so that a hole is not an entry of this format.
    var isTransparent: Bool { get }

    /// What bytes are that the tables place behind the end of a child; most formats store units whole.
    func shortFileRule(ofChild child: Int) -> ShortFileRule
    /// Whether data may be placed behind the end of a file, as far as that can be told without walking the
    /// tables: an image that is opened for writing is then walked.
    ///
    /// - Throws: what reading throws.
    func mayBeCut() throws(BlockError) -> Bool
    /// One past the last byte of a cut file that something else than the disk needs, such as a snapshot;
    /// `nil` where nothing of that kind is known to be lost.
    ///
    /// - Throws: what reading throws.
    func endOfHiddenData() throws(BlockError) -> Int?
    /// Where the unit at `offset`, of an ``Extent/Status/encoded(compressed:)`` extent, is kept; `nil` where
    /// that is not known.
    ///
    /// - Throws: `corrupt`, `io`.
    func place(ofEncodedAt offset: Int) throws(BlockError) -> EncodedPlace?

    /// Where the bytes at `offset` are: one run with one status. `0 < limit`; the range is inside the disk.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// Reads bytes from ``Extent/Status/encoded(compressed:)`` extents; the range lies in one extent.
    func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
    /// Says where the first part of a write to `guest` goes, and takes space for it where it has none.
    /// Nothing refers to that space yet; its entries have their own space in the file, so that a full disk
    /// refuses this and not ``link(_:)``.
    ///
    /// - Parameter backingEnd: up to where something lies below this layer.
    /// - Throws: `readOnly`, `noSpace`, `io`, `corrupt`; nothing is taken then.
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant
    /// Ends a grant whose bytes are in the file: the tables refer to them. What cannot be linked is given
    /// back.
    ///
    /// - Throws: `noSpace`, `io`, `corrupt`.
    func link(_ grant: WriteGrant) throws(BlockError)
    /// Ends a grant whose bytes could not be written.
    func giveBack(_ grant: WriteGrant)
    /// Encodes guest bytes from `guest` on and writes them to their place in `grant`, whose form is not
    /// plain.
    ///
    /// - Throws: `noSpace`, `io`.
    func storeEncoded(_ bytes: RawSpan, for grant: WriteGrant, at guest: Int) throws(BlockError)
    /// On return, everything written before the call is durable, and reachable after a crash.
    func flush() throws(BlockError)
    /// Writes back what is cached. No call follows. Not called after a failed `open`.
    func close() throws(BlockError)
    /// The file node was reopened; the driver writes back first, or gets ready for writing after.
    func willReopen(readOnly: Bool) throws(BlockError)
    func didReopen(readOnly: Bool) throws(BlockError)

    /// What `info` tells of this image.
    func describe() throws(BlockError) -> FormatInfo
}

extension FormatDriver {
    public static var aliases: [String] { [] }
    public static func probe(tail: RawSpan, filename: String) -> Int { 0 }
    public static var suffixesKnownByEnd: [String] { [] }
    public static var traits: FormatTraits { [] }
    public static var optionsInName: [String] { [] }
    public static func joined(_ new: OptionTree, over old: OptionTree) -> OptionTree { old.changed(by: new) }
    public var backing: BackingReference? { nil }
    public var dataMayBeHoles: Bool { false }
    public var mapStyle: MapStyle { [] }
    public var isTransparent: Bool { false }
    public func shortFileRule(ofChild child: Int) -> ShortFileRule { .lost }
    public func mayBeCut() throws(BlockError) -> Bool { true }
    public func endOfHiddenData() throws(BlockError) -> Int? { nil }
    public func place(ofEncodedAt offset: Int) throws(BlockError) -> EncodedPlace? { nil }
    /// Whether space that was never written reads as zeroes, in a new image and where it grew.
    public var unwrittenReadsAsZero: Bool { !Self.traits.contains(.unwrittenIsUndefined) }
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        throw BlockError(.unsupported, "Format '\(Self.name)' has no encoded data")
    }
    public func link(_ grant: WriteGrant) throws(BlockError) {}
    public func giveBack(_ grant: WriteGrant) {}
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        throw BlockError(.unsupported, "Format '\(Self.name)' encodes nothing")
    }
    public func willReopen(readOnly: Bool) throws(BlockError) {}
    public func didReopen(readOnly: Bool) throws(BlockError) {}
}
