import BlockCore

/// Every filter that Platter opens by name.
public enum StandardFilters {
    public static let all: [any OpenableFilter.Type] = [
        CopyBeforeWriteDriver.self, DebugDriver.self, SnapshotAccessDriver.self, ThrottleDriver.self,
    ]
}
