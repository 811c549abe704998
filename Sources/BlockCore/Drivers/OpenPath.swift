import Synchronization

/// The images that led to the one being opened, none of which may occur again, and the depth of nesting.
///
/// Every image counts, however it is named: as a backing file, in `json:`, as a `file.` of another format, by
/// a link or `/proc/self/fd`, as a data file or an extent.
struct OpenPath: Sendable {
    /// Limits the formats nested inside each other between a disk and its bytes: reading recurses through
    /// them.
    static let maximumNesting = 64
    /// Limits the files and images opened for one image: a small image can name many files, and each takes
    /// memory.
    static let maximumNodes = 65536

    /// The places of the images so far; see ``BlockNode/place``.
    private var places: Set<String> = []
    private var nesting = 0
    /// How many images of the chain are above the one being opened.
    private(set) var depth = 0
    private let count = OpenCount()
    /// The confinement of the file that is opened next; `nil` for a file that the user names.
    var confinement: FileConfinement?

    /// The same path, nested one format deeper.
    ///
    /// - Throws: `limit` for more than ``maximumNesting`` formats.
    func nested(in name: String?) throws(BlockError) -> OpenPath {
        var deeper = self
        deeper.nesting += 1
        guard deeper.nesting <= Self.maximumNesting else {
            throw BlockError(
                .limit, "More than \(Self.maximumNesting) formats are nested in each other", path: name)
        }
        return deeper
    }

    /// The same path for a file that the user names.
    var unconfined: OpenPath {
        var path = self
        path.confinement = nil
        return path
    }

    /// Counts a file before it is opened.
    ///
    /// - Throws: `limit` for more than ``maximumNodes`` files, in all branches together.
    func countFile(_ name: String) throws(BlockError) {
        guard count.value.add(1, ordering: .relaxed).newValue <= Self.maximumNodes else {
            throw BlockError(
                .limit, "The image has more than \(Self.maximumNodes) files opened", path: name)
        }
    }

    /// Adds the image whose bytes are in `file`.
    ///
    /// - Throws: `corrupt` when that image led here already.
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

/// The count of files opened for one image. Thread-safe.
private final class OpenCount: Sendable {
    let value = Atomic<Int>(0)
}

extension BlockNode {
    /// The identity of this node's bytes, different for every place; `nil` for storage without an identity.
    ///
    /// One file may hold several places: a window of a file is another place than the file, and so is the
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
    /// The current path of the innermost file, if that is not its name.
    var filePlace: String? { storage?.place ?? file?.filePlace }
}
