/// The backing file as an image names it.
public struct BackingReference: Sendable, Equatable {
    /// The name as stored; a relative name counts from the image's folder.
    public var filename: String
    /// The format as stored; `nil` to probe the file.
    public var format: String?
    /// Names to try in turn when no file has the first one, for formats that know their parent by an
    /// identity.
    public var otherNames: [String]

    /// A reference with the names as the image stores them.
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

/// How a format's map differs from its driver's extents, so that it is the same as QEMU's.
public struct MapStyle: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// Allocated units are data, also when the file has holes there.
    public static let unitsAreWhole = MapStyle(rawValue: 1)
    /// Unallocated space without a backing node is present: QEMU's driver has no backing files.
    public static let allIsPresent = MapStyle(rawValue: 2)
}

/// The traits in which a few formats differ from the others.
public struct FormatTraits: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// An image is its file's bytes as they are.
    ///
    /// It has no metadata that could change under a reader, so a read-only open may share the file with
    /// writers; and opening the file with or without such a format gives the same bytes.
    public static let plainBytes = FormatTraits(rawValue: 1)
    /// Space that was never written does not read as zeroes, neither in a new image nor in one that grew.
    public static let unwrittenIsUndefined = FormatTraits(rawValue: 2)
}

/// An image format: a mapping from guest offsets to bytes in a file.
///
/// The main requirement is ``extent(at:limit:)``: from it ``BlockNode`` reads plain data, zeroes and the
/// backing chain, once for all formats. All offsets and lengths are in bytes. Every call blocks its thread
/// and may come from any thread. The node has checked bounds and read-only, and guarantees that no other
/// request runs in the ``writeGranularity``-rounded range of a write, discard or zeroing. A driver guards its
/// metadata with a lock of its own, which it does not hold while it reads or writes guest data. Further
/// abilities are protocols to conform to, in Capabilities.swift.
public protocol FormatDriver: AbilityKnowing {
    /// The name in `-f` and `driver=`, such as `qcow2`.
    static var name: String { get }
    /// Other names for the format, such as `vhd` for `vpc`.
    static var aliases: [String] { get }
    /// How sure the format is that this is one of its images: 0 (no) to 100 (its magic and version).
    /// `header` is the start of the file, up to 2048 bytes; `filename` may help.
    static func probe(_ header: RawSpan, filename: String) -> Int
    /// The same by the end of the file: `tail` is its last 1024 bytes, or all of a shorter file. More than 0
    /// only for an unmistakable footer: a file with another format's start is then opened as neither.
    static func probe(tail: RawSpan, filename: String) -> Int
    /// Endings of file names, such as `.dmg`, of images that are recognised by their footer alone: probing
    /// refuses a file with such a name and no footer, rather than take it for a raw disk.
    static var suffixesKnownByEnd: [String] { get }
    /// The traits in which a few formats differ from the others.
    static var traits: FormatTraits { get }
    /// Opens an image, and takes its own keys out of `options`. Further files (a data file, extents) are
    /// opened through ``OpenRequest/openChild(_:otherNames:role:purpose:options:)`` and nowhere else.
    ///
    /// - Throws: `wrongFormat`, `corrupt`, `unsupported`, `invalidArgument`, `notFound`, `denied`, `limit`,
    ///   `io`.
    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> Self
    /// The open options that are part of the disk's identity: with others, the same file is another disk.
    static var optionsInName: [String] { get }
    /// The options for reopening an image that was opened with `old`, when the options in `new` change.
    static func joined(_ new: OptionTree, over old: OptionTree) -> OptionTree

    /// The size of the guest's disk, in bytes.
    var virtualSize: Int { get }
    /// The backing file that the image names.
    var backing: BackingReference? { get }
    /// The unit in which requests are serialised, in bytes: a power of two, or 1.
    var writeGranularity: Int { get }
    /// Whether an extent with status `data` may be a hole in the file, so that a map asks the file too.
    var dataMayBeHoles: Bool { get }
    /// How a map differs from ``extent(at:limit:)``.
    var mapStyle: MapStyle { get }

    /// Whether the holes and data of the disk are those of the file: the format has no entries for them.
    var isTransparent: Bool { get }

    /// The meaning of bytes that the tables place behind the end of a child; most formats store units whole.
    func shortFileRule(ofChild child: Int) -> ShortFileRule
    /// Whether the tables may place data behind the end of a file, as far as that shows without walking them.
    /// If so, opening the image for writing walks the tables.
    ///
    /// - Throws: `io`, `corrupt`.
    func mayBeCut() throws(BlockError) -> Bool
    /// One past the last byte, in a cut file, of data that belongs not to the disk but, for example, to a
    /// snapshot; `nil` when no such data is known to be lost.
    ///
    /// - Throws: `io`, `corrupt`.
    func endOfHiddenData() throws(BlockError) -> Int?
    /// The place of the unit at `offset` of an ``Extent/Status/encoded(compressed:)`` extent; `nil` when it
    /// is unknown.
    ///
    /// - Throws: `corrupt`, `io`.
    func place(ofEncodedAt offset: Int) throws(BlockError) -> EncodedPlace?

    /// The run at `offset`: at most `limit` bytes with one status. `limit` > 0; the range is inside the disk.
    ///
    /// - Throws: `corrupt`, `io`.
    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent
    /// Fills `buffer` from `offset`, inside one ``Extent/Status/encoded(compressed:)`` extent.
    ///
    /// - Throws: `corrupt`, `unsupported`, `io`.
    func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError)
    /// The place of the first part of a write to `guest`; takes space for it if it has none. No table refers
    /// to that space yet. The table entries get their space here too, so that a full disk fails here and not
    /// in ``link(_:)``.
    ///
    /// - Parameter backingEnd: the end of the backing node's bytes, as an offset of this disk.
    /// - Throws: `readOnly`, `noSpace`, `limit`, `io`, `corrupt`; no space is taken then.
    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant
    /// Ends a grant whose bytes are in the file: makes the tables refer to them. If that fails, the space is
    /// given back.
    ///
    /// - Throws: `noSpace`, `io`, `corrupt`.
    func link(_ grant: WriteGrant) throws(BlockError)
    /// Ends a grant whose bytes could not be written: gives its space back.
    func giveBack(_ grant: WriteGrant)
    /// Encodes guest bytes from `guest` on and writes them to their place in `grant`, whose form is not
    /// plain.
    ///
    /// - Throws: `noSpace`, `io`.
    func storeEncoded(_ bytes: RawSpan, for grant: WriteGrant, at guest: Int) throws(BlockError)
    /// On return, everything written before the call is durable, and reachable after a crash.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    func flush() throws(BlockError)
    /// Writes the cached tables to the file. Nothing is durable on return, but the file is flushed where the
    /// order of the writes asks for it.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    func flushToSystem() throws(BlockError)
    /// Writes the cached tables back. No call follows. Not called after a failed `open`.
    ///
    /// - Throws: `io`, `noSpace`, `corrupt`.
    func close() throws(BlockError)
    /// The file's node is about to be reopened: a driver that becomes read-only writes its tables back.
    ///
    /// - Throws: errors of any kind; the old mode stays then.
    func willReopen(readOnly: Bool) throws(BlockError)
    /// The file's node was reopened: a driver that becomes writable prepares for writing. If this throws, the
    /// file's node is reopened in its old mode.
    ///
    /// - Throws: `corrupt`, `unsupported`, `io`, `noSpace`.
    func didReopen(readOnly: Bool) throws(BlockError)

    /// The format's part of `info` for this image.
    ///
    /// - Throws: `corrupt`, `io`.
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
    /// - Throws: nothing by default.
    public func mayBeCut() throws(BlockError) -> Bool { true }
    /// - Throws: nothing by default.
    public func endOfHiddenData() throws(BlockError) -> Int? { nil }
    /// - Throws: nothing by default.
    public func place(ofEncodedAt offset: Int) throws(BlockError) -> EncodedPlace? { nil }
    /// Whether space that was never written reads as zeroes, both in a new image and in one that grew.
    public var unwrittenReadsAsZero: Bool { !Self.traits.contains(.unwrittenIsUndefined) }
    /// - Throws: `unsupported` by default.
    public func readEncoded(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        throw BlockError(.unsupported, "Format '\(Self.name)' has no encoded data")
    }
    /// - Throws: nothing by default.
    public func link(_ grant: WriteGrant) throws(BlockError) {}
    public func giveBack(_ grant: WriteGrant) {}
    /// - Throws: `unsupported` by default.
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        throw BlockError(.unsupported, "Format '\(Self.name)' encodes nothing")
    }
    /// For formats that keep no changes in memory.
    ///
    /// - Throws: nothing by default.
    public func flushToSystem() throws(BlockError) {}
    /// - Throws: nothing by default.
    public func willReopen(readOnly: Bool) throws(BlockError) {}
    /// - Throws: nothing by default.
    public func didReopen(readOnly: Bool) throws(BlockError) {}
}
