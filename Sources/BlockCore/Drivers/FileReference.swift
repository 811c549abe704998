/// A file that an image names: what `info` lists without opening it.
public struct FileReference: Sendable {
    /// What options and `info` call it: `backing`, `data-file`, `extents.0`.
    public var role: String
    /// What the image wants it for.
    public var purpose: OpenPolicy.Request.Role
    /// The name as the image states it.
    public var statedName: String
    /// Names to try in turn when that leads nowhere.
    public var otherNames: [String]

    public init(
        role: String, purpose: OpenPolicy.Request.Role, statedName: String, otherNames: [String] = []
    ) {
        self.role = role
        self.purpose = purpose
        self.statedName = statedName
        self.otherNames = otherNames
    }
}

/// What is known of a file that an image names, without having opened it.
public struct FileFinding: Sendable {
    public var reference: FileReference
    /// The name from the working folder; `json:` and `scheme:` names are as stated.
    public var resolvedName: String
    /// Whether the policy has it opened for reading.
    public var isAllowed: Bool
    /// Why it is allowed or not.
    public var reason: String
    /// The file's length and the space that it takes, in bytes, where it is allowed, there, and a file.
    public var size: FileSize?
}

/// How large a file is, in bytes.
public struct FileSize: Sendable {
    public var length: Int
    public var allocated: Int

    public init(length: Int, allocated: Int) {
        self.length = length
        self.allocated = allocated
    }
}

/// Where a file that an image names has to lie.
///
/// A protocol that has links and folders resolves the name by itself, beneath the folder, and refuses
/// everything but regular files (``ProtocolEntry/confines``).
public struct FileConfinement: Sendable {
    /// What the image asked for.
    public var request: OpenPolicy.Request
    /// Whether the image names options (`json:`): then this holds for every file that they name.
    var isOfOptions = false
    /// The name in such options that is being opened; a relative one is meant from the working folder.
    var nameInOptions: String?
    /// Whether the folder of the image is allowed.
    public var allowsFolder: Bool
    /// What tells the image's file from all others (``BlockNode/identity``): a folder in which another file
    /// has its name now is not its own.
    public var imageIdentity: String?
    /// Where the image's file is now, if that is not under its name.
    var imagePlace: String?
    /// Files that the user names: they are allowed wherever they lie and whatever they are.
    public var named: [String]

    /// The name to look up.
    public var name: String { nameInOptions ?? request.statedName }
    /// Whether a relative ``name`` is meant from the working folder and not from that of the image.
    public var isFromWorkingFolder: Bool { nameInOptions != nil }

    /// The path of the image: its folder, and that of the file behind a link, are its own.
    public var imagePath: String {
        if let imagePlace { return imagePlace }
        guard let scheme = DriverRegistry.scheme(of: request.image) else { return request.image }
        if scheme == "file" { return FileNames.withoutFileScheme(request.image) }
        // A filter in front of the file: `blkdebug:CONFIG:FILE`.
        return request.image.split(separator: ":").last.map(String.init) ?? request.image
    }

    /// The error for a file that lies elsewhere.
    public func denial(_ reason: String?) -> BlockError { OpenPolicy.denial(request, reason: reason) }

    /// The same decision by the text of the name alone, for protocols without links.
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
