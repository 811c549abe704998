import Synchronization

/// Decides about every file that an image names: backing files, data files, extents.
///
/// Files that the user names are not asked about. Thread-safe.
public struct OpenPolicy: Sendable {
    /// What an image wants opened.
    public struct Request: Sendable {
        /// What the image wants the file for.
        public enum Role: String, Sendable {
            case backing = "backing file"
            case dataFile = "data file"
            case extent = "extent file"
        }
        public var role: Role
        /// The name as the image states it.
        public var statedName: String
        /// The name after joining it with the image's folder; `json:` and `scheme:` names are as stated.
        public var resolvedName: String
        /// The image that names it.
        public var image: String
        /// Whether the file is going to be written to: one that an image consists of and that is opened for
        /// writing, and a backing file, opened for reading before, that `commit` writes to.
        public var isForWriting = false
    }

    /// The answer to a request.
    public enum Verdict: Sendable, Equatable {
        /// The file of that name, wherever it is and whatever it is.
        case anywhere
        /// A regular file in the folder of the image or below, once links are followed.
        case beneathImage
        case denied
    }

    private let decide: @Sendable (Request) -> Verdict
    /// The files that the user names, which are allowed also where an image names them.
    let named = NamedFiles()

    /// A policy that opens what `decide` answers.
    public init(deciding decide: @escaping @Sendable (Request) -> Verdict) { self.decide = decide }

    /// A policy that opens what `decide` answers `true` for, wherever it is.
    public init(_ decide: @escaping @Sendable (Request) -> Bool) {
        self.decide = { decide($0) ? .anywhere : .denied }
    }

    /// Open everything, as qemu-img does.
    public static var anyFile: OpenPolicy { OpenPolicy(deciding: { _ in .anywhere }) }
    /// Open regular files in the image's own folder or below: no protocols, and no links that lead elsewhere.
    /// Of `json:` names each file has to lie there, too.
    public static var standard: OpenPolicy {
        OpenPolicy(deciding: {
            let isOptions = $0.role == .backing && $0.statedName.hasPrefix("json:")
            return isOptions || isPlain($0.statedName) ? .beneathImage : .denied
        })
    }
    /// Open nothing.
    public static var nothing: OpenPolicy { OpenPolicy(deciding: { _ in .denied }) }
    /// As ``standard``, but only names without a slash.
    public static var sameFolder: OpenPolicy {
        OpenPolicy(deciding: {
            isPlain($0.statedName) && FileNames.folder(of: $0.statedName).isEmpty ? .beneathImage : .denied
        })
    }

    /// Whether a name is one of a file, not options or a protocol's.
    private static func isPlain(_ name: String) -> Bool {
        !name.isEmpty && DriverRegistry.scheme(of: name) == nil
    }

    /// Allows a file that the user names, whichever image names it too.
    ///
    /// - Parameter path: from the working folder.
    public func allow(_ path: String) { named.add(path) }

    /// Whether the user names this file.
    func names(_ path: String) -> Bool { named.all.contains { $0.isSameName(as: path) } }

    /// What is to be done about a request.
    public func verdict(_ request: Request) -> Verdict { decide(request) }

    /// The error for a file that is not allowed.
    ///
    /// - Parameter reason: why not, as an end of the sentence; `nil` for what the name alone says.
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
