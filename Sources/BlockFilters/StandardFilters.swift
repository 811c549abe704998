import BlockCore

/// Every filter that Platter opens by name.
public enum StandardFilters {
    public static let all: [any OpenableFilter.Type] = [
        DebugDriver.self, LogWritesDriver.self, VerifyDriver.self, CompressDriver.self,
        CopyOnReadDriver.self, PreallocateDriver.self, QuorumDriver.self, ThrottleDriver.self,
    ]
}
