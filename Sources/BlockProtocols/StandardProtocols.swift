import BlockCore

/// Every protocol that Platter knows.
public enum StandardProtocols {
    public static let all: [ProtocolEntry] = [
        FileDriver.entry, HostDeviceDriver.entry, NullDriver.entry,
    ]
}
