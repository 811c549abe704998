import BlockCore
import BlockProtocols

/// The open policy of a run of the program.
enum PolicyChoice {
    static let variable = "PLATTER_OPEN_POLICY"

    /// Whether `program` is the name of one of QEMU's programs, whose habits the run then has.
    static func isQemu(_ program: String) -> Bool { ["qemu-img", "qemu-io", "qemu-nbd"].contains(program) }

    /// The policy without an option: that of the environment variable, or else that of the program's name.
    ///
    /// - Throws: for a variable that names no policy.
    static func initial(program: String) throws(CommandFailure) -> OpenPolicy {
        if let value = HostEnvironment.value(variable) { return try policy(named: value, from: variable) }
        return isQemu(program) ? .anyFile : .standard
    }

    /// The policy of that name.
    ///
    /// - Parameter source: the option or variable that has the name, for the message.
    /// - Throws: for an unknown name.
    static func policy(
        named name: String, from source: String = "--open-policy"
    ) throws(CommandFailure) -> OpenPolicy {
        switch name {
        case "default": return .standard
        case "any": return .anyFile
        case "same-folder": return .sameFolder
        case "none": return .nothing
        default:
            throw .usage("\(source) expects 'default', 'any', 'same-folder' or 'none', not '\(name)'")
        }
    }
}

extension OptionReader {
    mutating func openPolicy() -> String? {
        value(
            nil, "open-policy", "default|any|same-folder|none",
            "Which files an image may have opened: those in its own folder or below (the default), all "
                + "anywhere (the default under the names of QEMU's programs), all only in its own folder, or "
                + "none")
    }
}

extension CommandContext {
    /// Allows a file that the user names as part of `image`'s chain, since the image names it too, or is
    /// going to.
    ///
    /// - Parameters:
    ///   - name: relative to the image's folder.
    ///     - orFromHere: whether `name` may also be relative to the working folder.
    func allow(_ name: String?, of image: String, orFromHere: Bool = false) {
        guard let name, !name.isEmpty else { return }
        opener.policy.allow(FileNames.resolve(name, relativeTo: image))
        if orFromHere { opener.policy.allow(name) }
    }
}
