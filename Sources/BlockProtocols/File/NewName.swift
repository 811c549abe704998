import BlockCore
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The name of a further file for an image.
///
/// The file is made only if nothing has the name, not even a dangling link; if a file exists, it is opened.
struct NewName {
    private let path: String
    private let confinement: FileConfinement?

    init(_ path: String, _ confinement: FileConfinement?) {
        self.path = path
        self.confinement = confinement
    }

    /// The file, open for reading and writing.
    ///
    /// - Throws: `denied`; `notFound`, `io`, `noSpace`, with the message `Could not create 'path': …`.
    func make() throws(BlockError) -> FileDescriptor {
        do {
            return try confinement.map { try make(beneath: $0) } ?? make(in: AT_FDCWD, path)
        } catch {
            if let failure = error as? BlockError { throw failure }
            throw BlockError.system(error as? Errno ?? .ioError, path: path)
                .prefixed("Could not create '\(path)'")
        }
    }

    private func make(beneath confinement: FileConfinement) throws -> FileDescriptor {
        let name = confinement.request.statedName
        let last = FileNames.lastComponent(name)
        let folders = try ConfinedName(confinement).folders()
        let walk = FolderWalk(from: folders.start)
        let folder = FileNames.folder(of: name)
        let parent = folder.isEmpty ? "." : folder
        guard !last.isEmpty, last != "..", confinement.allowsFolder,
            let found = try? walk.find(parent), folders.contain(found.file)
        else { throw confinement.denial("which is not in the image's folder") }
        do { return try make(in: found.file.number, last, existing: false) } catch Errno.fileExists {
            return try ConfinedName(confinement).open(.readWrite, [.closeOnExec, .nonBlocking])
        }
    }

    private func make(in folder: Int32, _ name: String, existing: Bool = true) throws -> FileDescriptor {
        let flags = O_RDWR | O_CLOEXEC | O_NONBLOCK
        let made = openat(folder, name.hostPath, flags | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644)
        if made >= 0 { return FileDescriptor(rawValue: made) }
        let code = Errno(rawValue: errno)
        guard existing, code == .fileExists else { throw code }
        let opened = openat(folder, name.hostPath, flags)
        guard opened >= 0 else { throw Errno(rawValue: errno) }
        return FileDescriptor(rawValue: opened)
    }
}
