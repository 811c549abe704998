/// The open option `parent-check`: when `off`, an image may be read over a backing file that is another one,
/// or has changed since the image was made over it.
struct ParentCheck {
    private static let key = "parent-check"

    private let isEnforced: Bool
    /// The full name of the option, in the options of the uppermost image.
    private let name: String

    /// Takes the option if the format has such a check.
    ///
    /// - Parameter depth: how many images of the chain are above this one.
    /// - Throws: `invalidArgument` for another value than `on` or `off`.
    init(
        taking options: inout OptionTree, _ format: any FormatDriver.Type, depth: Int
    ) throws(BlockError) {
        name = String(repeating: "backing.", count: min(depth, 20)) + Self.key
        isEnforced = format.asBackingChecking != nil ? try options.takeFlag(Self.key) ?? true : true
    }

    /// Whether the options of a backing file are only this one, and name no file.
    static func isAll(of options: OptionTree) -> Bool {
        options.keys.allSatisfy { $0 == key || $0.hasSuffix(".backing." + key) || $0 == "backing." + key }
    }

    /// - Throws: `corrupt` for a wrong backing file, unless the image is read-only and the option is `off`:
    ///   then `warn` gets the reason.
    func run(
        on node: BlockNode, _ settings: OpenSettings, _ warn: (@Sendable (String) -> Void)?
    ) throws(BlockError) {
        guard let backing = node.backing, let driver = node.format?.asBackingChecking else { return }
        do throws(BlockError) { try driver.checkBacking(backing) } catch {
            guard error.kind == .corrupt else { throw error }
            guard isEnforced || !settings.readOnly else {
                warn?(error.message)
                return
            }
            throw explained(error)
        }
    }

    private func explained(_ error: BlockError) -> BlockError {
        var error = error
        let advice =
            isEnforced
            ? "To read it nevertheless, open it with the option '\(name)=off' (--image-opts "
                + "driver=...,\(name)=off,file.filename=...)."
            : "With '\(name)=off' it can only be read."
        error.hint = (error.hint.map { $0 + "\n" } ?? "") + advice
        return error
    }
}
