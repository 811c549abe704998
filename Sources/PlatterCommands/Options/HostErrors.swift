#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The host's error numbers, where messages depend on them.
enum HostErrors {
    static let fileTooBig: Int32 = EFBIG

    /// The system's text for an error number.
    static func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}
