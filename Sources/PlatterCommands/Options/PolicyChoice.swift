import BlockCore
import BlockProtocols

/// Which open policy a run of the program has.
enum PolicyChoice {
    static let variable = "PLATTER_OPEN_POLICY"

    /// Whether the program is called by a name of QEMU's, and does as that program does.
    static func isQemu(_ program: String) -> Bool { ["qemu-img", "qemu-io", "qemu-nbd"].contains(program) }

    /// The policy under that name of the program: the variable's, or the name's own.
    static func initial(program: String) throws(CommandFailure) -> OpenPolicy {
        if let value = HostEnvironment.value(variable) { return try policy(named: value, from: variable) }
        return isQemu(program) ? .anyFile : .standard
    }

    /// The policy of that name.
    ///
    /// - Parameter source: where the name was given, for the message.
    /// - Throws: for a name that is no policy's.
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
    /// Allows a file that the user names as one of `image`'s chain, which the image then names too.
    ///
    /// - Parameters:
    ///   - name: relative to the image's folder.
    ///   - orFromHere: whether it may be meant from the working folder, too.
    func allow(_ name: String?, of image: String, orFromHere: Bool = false) {
        guard let name, !name.isEmpty else { return }
        opener.policy.allow(FileNames.resolve(name, relativeTo: image))
        if orFromHere { opener.policy.allow(name) }
    }
}
