/// What the process was started with.
public enum HostEnvironment {
    /// The value of an environment variable, unless it is empty.
    public static func value(_ name: String) -> String? { FileStatus.environment(name) }
}
