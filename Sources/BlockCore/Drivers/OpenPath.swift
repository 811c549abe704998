import Synchronization

/// The images that led to the one being opened: what must not come again, and how deep it is nested.
///
/// Every image counts, however it is named: as a backing file, in `json:`, as a `file.` of another format, by
/// a link or `/proc/self/fd`, as a data file or an extent.
struct OpenPath: Sendable {
    /// How many formats may lie one inside the other between a disk and its bytes: reading recurses there.
    static let maximumNesting = 64
    /// How many files and images one image may have opened: names are short, and each takes memory.
    static let maximumNodes = 65536

    /// The places of the images so far; see ``BlockNode/place``.
    private var places: Set<String> = []
    private var nesting = 0
    /// How many images of the chain are above the one being opened.
    private(set) var depth = 0
    private let count = OpenCount()
    /// Where the file that is opened next has to lie; `nil` where the user names it.
    var confinement: FileConfinement?

    /// The same, one format deeper.
    ///
    /// - Throws: `limit`.
    func nested(in name: String?) throws(BlockError) -> OpenPath {
        var deeper = self
        deeper.nesting += 1
        guard deeper.nesting <= Self.maximumNesting else {
            throw BlockError(
                .limit, "More than \(Self.maximumNesting) formats are nested in each other", path: name)
        }
        return deeper
    }

    /// The same for a file that the user names.
    var unconfined: OpenPath {
        var path = self
        path.confinement = nil
        return path
    }

    /// Counts a file that is going to be opened.
    ///
    /// - Throws: `limit` when there are too many, in all branches together.
    func countFile(_ name: String) throws(BlockError) {
        guard count.value.add(1, ordering: .relaxed).newValue <= Self.maximumNodes else {
            throw BlockError(
                .limit, "The image has more than \(Self.maximumNodes) files opened", path: name)
        }
    }

    /// Adds the image whose bytes are in `file`.
    ///
    /// - Throws: `corrupt` when it is there already.
    mutating func enter(_ file: BlockNode) throws(BlockError) {
        try check(file)
        depth += 1
        if let place = file.place { places.insert(place) }
    }

    /// - Throws: `corrupt` when the bytes in `file` are those of an image that led here.
    func check(_ file: BlockNode) throws(BlockError) {
        guard let place = file.place, places.contains(place) else { return }
        throw BlockError(
            .corrupt, "Backing file '\(file.filename)' creates an infinite loop.", path: file.filename)
    }
}

/// How many files were opened for one image. Thread-safe.
private final class OpenCount: Sendable {
    let value = Atomic<Int>(0)
}

extension BlockNode {
    /// What tells the bytes of this node from all others; `nil` where they have no such mark.
    ///
    /// Several images may lie in one file: a window of a file is another place than the file, and so is the
    /// disk of an image in it.
    public var place: String? {
        var node = self
        var suffix = ""
        var start = 0
        while let below = node.file {
            guard let driver = node.format else {
                node = below
                continue
            }
            if driver.isTransparent {
                start = start.addingReportingOverflow(driver.windowStart).partialValue
            } else {
                suffix = "/\(node.driverName)" + (start == 0 ? "" : "@\(start)") + suffix
                start = 0
            }
            node = below
        }
        return node.storage?.identity.map { $0 + (start == 0 ? "" : "@\(start)") + suffix }
    }
}

extension FormatDriver {
    /// Where in its file the disk of a transparent format begins, in bytes.
    fileprivate var windowStart: Int {
        guard virtualSize > 0, case .data(let offset)? = try? extent(at: 0, limit: 1).status else { return 0 }
        return offset
    }
}

extension BlockNode {
    /// Where the innermost file is now, if that is not under its name.
    var filePlace: String? { storage?.place ?? file?.filePlace }
}
