import BlockCore

/// `driver=null-co` or `driver=null-aio`, with `size` (1 GiB if not stated), `latency-ns` and `read-zeroes`;
/// or `null-co://` and `null-aio://` without options.
extension NullStorage {
    private static var latencyKey: String { "latency-ns" }

    /// The device as a protocol of the registry.
    public static var entry: ProtocolEntry {
        ProtocolEntry(
            name: name, schemes: [name], needsFilename: false,
            open: { (filename, options, _) throws(BlockError) -> any ProtocolDriver in
                try open(filename, &options, clock: SystemClock())
            },
            naming: { (filename, options) in
                NodeNaming(filename, driver: name, options, inName: ["size", "read-zeroes"])
            })
    }

    /// Opens the device that `options` describe.
    ///
    /// - Parameter clock: the clock by which requests wait.
    /// - Throws: `invalidArgument`.
    public static func open(
        _ filename: String, _ options: inout OptionTree, clock: any BlockClock
    ) throws(BlockError) -> NullStorage {
        guard filename.isEmpty || filename == "\(name)://" else {
            throw BlockError(
                .invalidArgument, "The only allowed filename for this driver is '\(name)://'",
                path: filename)
        }
        return NullStorage(
            sizeBytes: try options.takeSize("size") ?? .gib(1),
            readsZeroes: try options.takeFlag("read-zeroes") ?? false,
            latencyNanoseconds: try latency(options.take(latencyKey)), clock: clock)
    }

    private static func latency(_ text: String?) throws(BlockError) -> Int {
        guard let text else { return 0 }
        if text.hasPrefix("-"), Int(text) != nil {
            throw BlockError(.invalidArgument, "\(latencyKey) is invalid")
        }
        guard let number = CLikeNumber.unsigned(text) else {
            throw BlockError(.invalidArgument, "Parameter '\(latencyKey)' expects a number")
        }
        guard let latency = Int(exactly: number) else {
            throw BlockError(.invalidArgument, "\(latencyKey) is invalid")
        }
        return latency
    }
}
