import BlockCore

/// The driver's entry in the registry.
extension HostDeviceDriver {
    /// The driver's entry in the registry.
    public static let entry = ProtocolEntry(
        name: name, schemes: [name], createOptions: createOptions,
        open: { (filename, options, settings) throws(BlockError) -> any ProtocolDriver in
            let options = try FileOpenOptions(settings, taking: &options)
            let file = try HostFile.open(path(in: filename), options)
            try checkDevice(file)
            return HostDeviceDriver(file)
        },
        create: { (filename, options) throws(BlockError) in
            let settings = FileOpenOptions(OpenSettings(readOnly: false))
            let file = try HostFile.open(path(in: filename), settings)
            defer { file.close() }
            try checkDevice(file)
            try HostDeviceDriver(file).prepare(
                size: options.integer(.size) ?? 0, preallocation: try options.preallocation())
        }, confines: true)

    /// The options for making an image on a device.
    public static let createOptions = [
        CreateOption(.size, .size, help: "How much of the device is needed, in bytes"),
        CreateOption(.preallocation, .string, help: "How space is reserved (off)"),
    ]

    private static func path(in filename: String) -> String {
        let prefix = "\(name):"
        return filename.hasPrefix(prefix) ? String(filename.dropFirst(prefix.count)) : filename
    }
}
