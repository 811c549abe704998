import BlockCore

/// Every protocol that Platter opens by name.
public enum StandardProtocols {
    /// The protocols, in the order in which they are listed.
    public static let all: [ProtocolEntry] = [
        FileDriver.entry, HostDeviceDriver.entry, HostCdromDriver.entry, NullDriver.entry,
        NullAioDriver.entry,
    ]
}
