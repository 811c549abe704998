import BlockCore

/// Every protocol that Platter opens by name.
public enum StandardProtocols {
    public static let all: [ProtocolEntry] = [
        FileDriver.entry, HostDeviceDriver.entry, NullDriver.entry, NullAioDriver.entry,
    ]
}
