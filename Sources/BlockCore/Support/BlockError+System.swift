import SystemPackage

extension BlockError {
    /// The error for a failed system call: its kind follows from the errno, whose text is the message.
    public static func system(_ code: Errno, path: String, offset: Int? = nil) -> BlockError {
        BlockError(
            kind(of: code), code.description, errno: code.rawValue, path: path, offset: offset)
    }

    /// The same for an errno value, such as one in a rule of a filter.
    public static func system(errno code: Int32, path: String, offset: Int? = nil) -> BlockError {
        system(Errno(rawValue: code), path: path, offset: offset)
    }

    private static func kind(of code: Errno) -> Kind {
        switch code {
        case .noSpace, .diskQuotaExceeded, .fileTooLarge: .noSpace
        case .noSuchFileOrDirectory: .notFound
        case .fileExists: .exists
        case .notSupported, .notSupportedOnSocket, .noFunction: .unsupported
        case .resourceBusy: .busy
        default: .io
        }
    }
}
