import BlockCore
import SystemPackage

extension Errno {
    /// Whether the system or the file system lacks the call: it need not be tried again.
    var meansUnsupported: Bool {
        switch self {
        case .notSupported, .notSupportedOnSocket, .noFunction, .inappropriateIOCTLForDevice: true
        default: false
        }
    }
}

/// Throws the result of a CHost call, which is an errno value, unless it is 0.
func checked(_ code: Int32) throws(Errno) {
    if code != 0 { throw Errno(rawValue: code) }
}

/// Runs `body`, turning its `Errno` into a ``BlockError`` about `path`.
func reporting<Result: ~Copyable>(
    _ path: String, at offset: Int? = nil, _ body: () throws(Errno) -> Result
) throws(BlockError) -> Result {
    do throws(Errno) { return try body() } catch { throw .system(error, path: path, offset: offset) }
}
