/// The environment of the process.
public enum HostEnvironment {
    /// The value of an environment variable; `nil` when it is unset or empty.
    public static func value(_ name: String) -> String? { FileStatus.environment(name) }
}
