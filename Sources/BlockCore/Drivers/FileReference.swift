/// A file that an image names.
///
/// `info` lists it without opening it.
public struct FileReference: Sendable {
    /// Its role, in options and in `info`: `backing`, `data-file`, `extents.0`.
    public var role: String
    /// Its purpose in the image.
    public var purpose: OpenPolicy.Request.Role
    /// The name as the image states it.
    public var statedName: String
    /// Names to try in turn when no file has ``statedName``.
    public var otherNames: [String]

    /// A reference with the name as the image states it.
    public init(
        role: String, purpose: OpenPolicy.Request.Role, statedName: String, otherNames: [String] = []
    ) {
        self.role = role
        self.purpose = purpose
        self.statedName = statedName
        self.otherNames = otherNames
    }
}

/// A finding about a file that an image names, made without opening the file.
public struct FileFinding: Sendable {
    /// The reference to the file.
    public var reference: FileReference
    /// The name, relative to the working folder; `json:` and `scheme:` names are as stated.
    public var resolvedName: String
    /// Whether the policy allows opening it for reading.
    public var isAllowed: Bool
    /// Why it is allowed or not.
    public var reason: String
    /// The file's length and the space that it takes; `nil` unless it is allowed, exists and is a regular
    /// file.
    public var size: FileSize?
}

/// The length of a file and the space that it takes on the disk, in bytes.
public struct FileSize: Sendable {
    /// The length in bytes.
    public var length: Int
    /// The space on the disk, in bytes.
    public var allocated: Int

    /// Both sizes are in bytes.
    public init(length: Int, allocated: Int) {
        self.length = length
        self.allocated = allocated
    }
}

/// The limits on the place of a file that an image names.
///
/// A protocol with links and folders resolves the name itself, inside the folder, and refuses everything but
/// regular files (``ProtocolEntry/confines``).
public struct FileConfinement: Sendable {
    /// The request of the image.
    public var request: OpenPolicy.Request
    /// Whether the image names options (`json:`): the limits then hold for every file that these name.
    var isOfOptions = false
    /// The name in such options that is being opened; a relative one counts from the working folder.
    var nameInOptions: String?
    /// Whether the folder of the image is allowed.
    public var allowsFolder: Bool
    /// The identity of the image's file (``BlockNode/identity``): a folder in which another file has its name
    /// now is not the image's folder.
    public var imageIdentity: String?
    /// The current path of the image's file, if that is not its name.
    var imagePlace: String?
    /// Files that the user names: they are allowed in any place and of any kind.
    public var named: [String]

    /// The name to look up.
    public var name: String { nameInOptions ?? request.statedName }
    /// Whether a relative ``name`` counts from the working folder and not from that of the image.
    public var isFromWorkingFolder: Bool { nameInOptions != nil }

    /// The path of the image.
    ///
    /// Its folder, and that of the file behind a link, belong to the image.
    public var imagePath: String {
        if let imagePlace { return imagePlace }
        guard let scheme = DriverRegistry.scheme(of: request.image) else { return request.image }
        if scheme == "file" { return FileNames.withoutFileScheme(request.image) }
        // A filter in front of the file: `blkdebug:CONFIG:FILE`.
        return request.image.split(separator: ":").last.map(String.init) ?? request.image
    }

    /// The error for a file in another place.
    public func denial(_ reason: String?) -> BlockError { OpenPolicy.denial(request, reason: reason) }

    /// Checks the place by the text of the name alone, for protocols without links.
    ///
    /// - Throws: `denied`.
    func checkText() throws(BlockError) {
        if named.contains(where: { $0.isSameName(as: request.resolvedName) }) { return }
        let name = name
        let parts = FileNames.components(name)
        let folder = FileNames.folder(of: imagePath)
        let isBelow =
            FileNames.isAbsolute(name)
            ? FileNames.isAbsolute(folder) && name.utf8.starts(with: folder.utf8)
            : !isFromWorkingFolder || folder.isEmpty
        guard allowsFolder, isBelow, !parts.contains("..") else { throw denial(nil) }
    }
}
