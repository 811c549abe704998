import BlockCore

/// The driver's entry in the registry.
extension HostDevice where Name == HostCdromName {
    /// The driver's entry in the registry.
    ///
    /// A new image cannot be made on a CD-ROM.
    public static var entry: ProtocolEntry {
        ProtocolEntry(
            name: name, schemes: [name],
            open: { (filename, options, settings) throws(BlockError) -> any ProtocolDriver in
                try open(filename, &options, settings)
            }, confines: true)
    }
}

extension HostDevice where Name == HostDeviceName {
    /// The driver's entry in the registry.
    public static var entry: ProtocolEntry {
        ProtocolEntry(
            name: name, schemes: [name], createOptions: createOptions,
            open: { (filename, options, settings) throws(BlockError) -> any ProtocolDriver in
                try open(filename, &options, settings)
            },
            create: { (filename, options) throws(BlockError) in
                let settings = FileOpenOptions(OpenSettings(readOnly: false))
                let file = try HostFile.open(path(in: filename), settings)
                defer { file.close() }
                try checkDevice(file)
                try HostDeviceDriver(file).prepare(
                    size: options.integer(.size) ?? 0, preallocation: try options.preallocation())
            }, confines: true)
    }

    /// The options for making an image on a device.
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "How much of the device is needed, in bytes"),
            CreateOption(.preallocation, .string, help: "How space is reserved (off)"),
        ]
    }
}

extension HostDevice {
    private static func open(
        _ filename: String, _ options: inout OptionTree, _ settings: OpenSettings
    ) throws(BlockError) -> HostDevice {
        let options = try FileOpenOptions(settings, taking: &options)
        let file = try HostFile.open(path(in: filename), options)
        try checkDevice(file)
        return HostDevice(file)
    }

    private static func path(in filename: String) -> String {
        let prefix = "\(name):"
        return filename.hasPrefix(prefix) ? String(filename.dropFirst(prefix.count)) : filename
    }
}
