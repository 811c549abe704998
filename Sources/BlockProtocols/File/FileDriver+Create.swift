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

/// Making files, and the driver's entry in the registry.
extension FileDriver {
    /// The driver's entry in the registry.
    public static let entry = ProtocolEntry(
        name: name, schemes: ["file"], createOptions: createOptions,
        open: { (path, options, settings) throws(BlockError) -> any ProtocolDriver in
            try open(path, &options, settings)
        },
        create: { (path, options) throws(BlockError) in try create(path, options) },
        confines: true,
        look: { (path, confinement) throws(BlockError) -> FileSize? in
            try ConfinedName.size(of: path, confinement)
        },
        make: { (path, confinement) throws(BlockError) -> any ProtocolDriver in
            var settings = OpenSettings(readOnly: false)
            settings.confinement = confinement
            return FileDriver(try HostFile.make(path, FileOpenOptions(settings)))
        })

    /// The options for making a file.
    public static let createOptions = [
        CreateOption(.size, .size, help: "How long the file is, in bytes"),
        CreateOption(.nocow, .bool, help: "Turn copy-on-write off for the file (btrfs)"),
        CreateOption(.preallocation, .string, help: "How space is reserved (off, falloc, full)"),
        CreateOption(.extentSizeHint, .size, help: "How much to allocate at once (XFS); 0 for no hint"),
    ]

    /// The default hint for file systems of how much to allocate at once, in bytes.
    private static let defaultExtentSize = Int.mib(1)

    private static func open(
        _ path: String, _ options: inout OptionTree, _ settings: OpenSettings
    ) throws(BlockError) -> any ProtocolDriver {
        let file = try HostFile.open(path, FileOpenOptions(settings, taking: &options))
        if file.kind == .blockDevice || file.kind == .characterDevice { return DeviceKind.driver(of: file) }
        try checkRegular(file)
        return FileDriver(file)
    }

    /// Makes a file of zeroes with the size and preallocation in `options`, or empties an existing one first.
    ///
    /// - Throws: `notFound`, `io`, `noSpace`, with the message `Could not create 'path': …`; `busy`, with
    ///   nothing changed, when another process uses the file; `invalidArgument`, `unsupported`.
    public static func create(_ path: String, _ options: CreateOptions) throws(BlockError) {
        let preallocation = try options.preallocation()
        let (descriptor, isNew) = try openForCreation(path)
        let settings = FileOpenOptions(OpenSettings(readOnly: false))
        let file = try HostFile.adopting(descriptor, path: path, settings)
        defer { file.close() }
        do throws(BlockError) {
            try file.changeLocks { _ in .creating }
            try empty(file, size: options.integer(.size) ?? 0, preallocation, options)
        } catch {
            // A file that another process uses already is not removed.
            if isNew, error.kind != .busy { HostPath.remove(path, identity: file.identity) }
            throw error
        }
    }

    /// Empties a file, or checks that a device is large enough, and reserves the space.
    static func empty(
        _ file: HostFile, size: Int, _ preallocation: Preallocation, _ options: CreateOptions
    ) throws(BlockError) {
        if file.kind == .blockDevice || file.kind == .characterDevice {
            return try HostDeviceDriver(file).prepare(size: size, preallocation: preallocation)
        }
        try checkRegular(file)
        let driver = FileDriver(file)
        try driver.truncate(to: 0, preallocation: .off)
        try setAttributes(of: file, options)
        try driver.truncate(to: size, preallocation: preallocation)
    }

    /// - Returns: the open file, and whether it did not exist before.
    private static func openForCreation(
        _ path: String
    ) throws(BlockError) -> (descriptor: FileDescriptor, isNew: Bool) {
        do throws(BlockError) {
            return (try openForCreation(path, isNew: true, named: path), true)
        } catch {
            guard error.errno == Errno.fileExists.rawValue else { throw error }
            return (try openForCreation(path, isNew: false, named: path), false)
        }
    }

    /// Opens a file for writing.
    ///
    /// - Parameters:
    ///   - isNew: whether the file must not exist yet.
    ///   - name: the name in messages.
    static func openForCreation(
        _ path: String, isNew: Bool, named name: String
    ) throws(BlockError) -> FileDescriptor {
        var flags: FileDescriptor.OpenOptions = [.create, .closeOnExec, .nonBlocking]
        if isNew { flags.insert(.exclusiveCreate) }
        do {
            return try FileDescriptor.open(
                FilePath(platformString: path.hostPath), .readWrite, options: flags,
                permissions: [.ownerReadWrite, .groupRead, .otherRead])
        } catch {
            throw BlockError.system(error as? Errno ?? .ioError, path: name)
                .prefixed("Could not create '\(name)'")
        }
    }

    /// Sets the attributes that can be set only while the file is empty.
    private static func setAttributes(of file: HostFile, _ options: CreateOptions) throws(BlockError) {
        if options.flag(.nocow) {
            try ignoringUnsupported("Could not turn copy-on-write off", file) {
                platter_disable_copy_on_write(file.descriptor)
            }
        }
        let hint = options.integer(.extentSizeHint)
        guard let bytes = UInt32(exactly: hint ?? defaultExtentSize) else {
            throw BlockError(.invalidArgument, "Extent size hint is too large", path: file.path)
        }
        if hint == nil {
            _ = platter_set_extent_size(file.descriptor, bytes)
        } else if bytes > 0 {
            try ignoringUnsupported("Could not set the extent size hint", file) {
                platter_set_extent_size(file.descriptor, bytes)
            }
        }
    }

    private static func ignoringUnsupported(
        _ message: String, _ file: HostFile, _ call: () -> Int32
    ) throws(BlockError) {
        let code = Errno(rawValue: call())
        if code.rawValue == 0 || code.meansUnsupported { return }
        throw BlockError.system(code, path: file.path).prefixed(message)
    }
}
