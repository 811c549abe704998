import Synchronization

/// Decides which files named in an image may be opened: backing files, data files, extents.
///
/// Files that the user names need no decision. Thread-safe.
public struct OpenPolicy: Sendable {
    /// A file named in an image, to be opened.
    public struct Request: Sendable {
        /// The purpose of the file in the image.
        public enum Role: String, Sendable {
            case backing = "backing file"
            case dataFile = "data file"
            case extent = "extent file"
        }
        /// The purpose of the file in the image.
        public var role: Role
        /// The name as the image states it.
        public var statedName: String
        /// The name after joining it with the image's folder; `json:` and `scheme:` names are as stated.
        public var resolvedName: String
        /// The image that names it.
        public var image: String
        /// Whether the file will be written: `true` for a data file or extent of an image opened for writing,
        /// and for a backing file before `commit` writes to it.
        public var isForWriting = false
    }

    /// The decision about a request.
    public enum Verdict: Sendable, Equatable {
        /// The file may be opened, in any place and of any kind.
        case anywhere
        /// A regular file may be opened, if it is in the folder of the image or below, with all links
        /// resolved.
        case beneathImage
        case denied
    }

    private let decide: @Sendable (Request) -> Verdict
    /// The files that the user names, which are allowed also when an image names them.
    let named = NamedFiles()

    /// A policy with the verdicts of `decide`, which may be called on any thread.
    public init(deciding decide: @escaping @Sendable (Request) -> Verdict) { self.decide = decide }

    /// A policy that allows a file in any place when `decide` returns `true`, and else denies it.
    public init(_ decide: @escaping @Sendable (Request) -> Bool) {
        self.decide = { decide($0) ? .anywhere : .denied }
    }

    /// Allows any file, as qemu-img does.
    public static var anyFile: OpenPolicy { OpenPolicy(deciding: { _ in .anywhere }) }
    /// Allows regular files in the image's own folder or below: no protocols, and no links out of it.
    ///
    /// All files in a `json:` name must be there too.
    public static var standard: OpenPolicy {
        OpenPolicy(deciding: {
            let isOptions = $0.role == .backing && $0.statedName.hasPrefix("json:")
            return isOptions || isPlain($0.statedName) ? .beneathImage : .denied
        })
    }
    /// Allows no file.
    public static var nothing: OpenPolicy { OpenPolicy(deciding: { _ in .denied }) }
    /// As ``standard``, but only names without a slash.
    public static var sameFolder: OpenPolicy {
        OpenPolicy(deciding: {
            isPlain($0.statedName) && FileNames.folder(of: $0.statedName).isEmpty ? .beneathImage : .denied
        })
    }

    /// Whether a name is that of a file, without options or a protocol.
    private static func isPlain(_ name: String) -> Bool {
        !name.isEmpty && DriverRegistry.scheme(of: name) == nil
    }

    /// Allows a file that the user names, for all images that name it too.
    ///
    /// - Parameter path: the name, relative to the working folder.
    public func allow(_ path: String) { named.add(path) }

    /// Whether the user names this file.
    func names(_ path: String) -> Bool { named.all.contains { $0.isSameName(as: path) } }

    /// The verdict about a request.
    public func verdict(_ request: Request) -> Verdict { decide(request) }

    /// The error for a file that is not allowed.
    ///
    /// - Parameter reason: the reason, as the end of the sentence; `nil` when the name is reason enough.
    public static func denial(_ request: Request, reason: String? = nil) -> BlockError {
        let purpose = request.isForWriting && request.role == .backing ? "writing to " : ""
        return BlockError(
            .denied,
            "The open policy does not allow \(purpose)the \(request.role.rawValue) '\(request.statedName)'"
                + (reason.map { ", \($0)" } ?? ""), path: request.image, hint: hint)
    }

    private static let hint =
        "Where the file is meant, allow it with --open-policy=any before the command or with "
        + "PLATTER_OPEN_POLICY=any in the environment, or name it with --image-opts."
}

/// Files that the user names. Thread-safe.
final class NamedFiles: Sendable {
    private let names = Mutex<[String]>([])

    var all: [String] { names.withLock { $0 } }
    func add(_ name: String) {
        names.withLock { names in
            if !names.contains(where: { $0.isSameName(as: name) }) { names.append(name) }
        }
    }
}
