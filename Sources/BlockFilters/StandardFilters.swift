import BlockCore

/// Every filter that Platter opens by name.
public enum StandardFilters {
    /// The filters, in the order in which they are listed.
    public static let all: [any OpenableFilter.Type] = [
        CopyBeforeWriteDriver.self, DebugDriver.self, LogWritesDriver.self, VerifyDriver.self,
        CompressDriver.self, CopyOnReadDriver.self, PreallocateDriver.self, QuorumDriver.self,
        SnapshotAccessDriver.self, ThrottleDriver.self,
    ]
}
