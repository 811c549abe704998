import BlockCore
import CHost
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A name in an image, which must lead to a regular file in the folder of the image or below.
///
/// The name is resolved once, to a descriptor that can neither read nor write. Only if that is of a regular
/// file, the file is opened, by the descriptor: so no device and no pipe is opened, even if the name changes
/// meanwhile.
struct ConfinedName {
    private let confinement: FileConfinement

    init(_ confinement: FileConfinement) { self.confinement = confinement }

    /// The size of the file, found without opening it; `nil` for anything but a regular file.
    ///
    /// - Throws: `denied`; `notFound`, `io`, with the message `Could not open 'path': …`.
    static func size(of path: String, _ confinement: FileConfinement?) throws(BlockError) -> FileSize? {
        do {
            let found =
                try confinement.map { try ConfinedName($0).find().file }
                ?? PathDescriptor(path: path)
            let status = try FileStatus(found.number)
            guard status.kind == .regular else { return nil }
            return FileSize(length: status.length, allocated: status.allocatedBytes)
        } catch {
            if let failure = error as? BlockError { throw failure }
            throw .couldNotOpen(path, error as? Errno ?? .ioError)
        }
    }

    /// Opens the file.
    ///
    /// - Throws: ``BlockError`` `denied`, or an `Errno`.
    func open(
        _ mode: FileDescriptor.AccessMode, _ flags: FileDescriptor.OpenOptions
    ) throws -> FileDescriptor {
        let found = try find()
        do {
            return try FileDescriptor.open("/proc/self/fd/\(found.file.number)", mode, options: flags)
        } catch Errno.noSuchFileOrDirectory {
            return try openByParent(found, mode.rawValue | flags.rawValue)
        }
    }

    /// Opens without /proc: the name again, in the folder where it was found; it must still be the same file.
    private func openByParent(_ found: FoundFile, _ flags: Int32) throws -> FileDescriptor {
        var found = found
        if found.folder == nil { found = try walk(try folders()) }
        guard let folder = found.folder else { throw Errno.noSuchFileOrDirectory }
        let opened = openat(folder.number, found.lastName.hostPath, flags | O_NOFOLLOW)
        guard opened >= 0 else { throw Errno(rawValue: errno) }
        let descriptor = FileDescriptor(rawValue: opened)
        guard try FileStatus(opened).identity == found.file.identity else {
            try? descriptor.close()
            throw Errno.noSuchFileOrDirectory
        }
        return descriptor
    }

    // MARK: Looking up

    /// Finds the file without opening it for reading or writing.
    ///
    /// - Throws: ``BlockError`` `denied`, or an `Errno`.
    func find() throws -> FoundFile {
        let folders = try folders()
        let found = try beneath(folders) ?? walk(folders)
        guard found.isNamed || found.file.kind == .regular else {
            if found.file.kind == .directory { throw Errno.isDirectory }
            throw confinement.denial("which is no regular file")
        }
        return found
    }

    /// The kernel's own look-up beneath a folder; `nil` if it has none, or if the path of the name leaves the
    /// folder.
    private func beneath(_ folders: ImageFolders) throws(Errno) -> FoundFile? {
        guard confinement.allowsFolder else { return nil }
        let name = confinement.name
        var start = folders.own.isEmpty ? nil : folders.start
        var rest = name
        if FileNames.isAbsolute(name) {
            (start, rest) = folders.split(name)
        } else if confinement.isFromWorkingFolder {
            return nil
        }
        guard let start, folders.owns(start), !rest.isEmpty else { return nil }
        var code: Int32 = 0
        let found = platter_find_beneath(start.number, rest.hostPath, &code)
        if found >= 0 { return FoundFile(file: try PathDescriptor(owning: found)) }
        switch Errno(rawValue: code) {
        case .noSuchFileOrDirectory, .notDirectory, .permissionDenied, .fileNameTooLong, .ioError:
            throw Errno(rawValue: code)
        default: return nil
        }
    }

    /// Resolves the name step by step, following links, then climbs from the file to check that the image's
    /// folder is above it.
    func walk(_ folders: ImageFolders) throws -> FoundFile {
        let start = confinement.isFromWorkingFolder ? try PathDescriptor(path: ".") : folders.start
        let walk = FolderWalk(from: start)
        let found: FoundFile
        do throws(FolderWalk.Failure) { found = try walk.find(confinement.name) } catch {
            // Outside the image's folder, a missing file and an existing one give the same error.
            guard confinement.allowsFolder, folders.contain(error.folder) else { throw outside }
            throw error.code
        }
        if confinement.allowsFolder, let folder = found.folder, folders.contain(folder) { return found }
        return try namedFile(found.file)
    }

    /// The same file, if the user names it.
    private func namedFile(_ file: PathDescriptor) throws -> FoundFile {
        for name in confinement.named {
            if let named = try? PathDescriptor(path: name), named.identity == file.identity {
                return FoundFile(file: named, isNamed: true)
            }
        }
        throw outside
    }

    private var outside: BlockError {
        confinement.denial(confinement.allowsFolder ? "which is not in the image's folder" : nil)
    }

    func folders() throws(Errno) -> ImageFolders {
        try ImageFolders(of: confinement.imagePath, identity: confinement.imageIdentity)
    }
}

/// The result of a look-up.
struct FoundFile {
    var file: PathDescriptor
    /// The folder in which it was found, if known, and its name there.
    var folder: PathDescriptor?
    var lastName = ""
    /// Whether the user names it, so that it may be of any kind.
    var isNamed = false
}
