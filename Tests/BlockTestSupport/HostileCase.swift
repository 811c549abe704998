/// A damaged image with what must be said about it.
public struct HostileCase: Sendable, CustomStringConvertible {
    /// What a check must find.
    public enum Finding: Int32, Sendable {
        case nothing = 0
        case corruption = 2
        case leaks = 3
    }

    public var name: String
    public var image: Qcow2Bytes
    /// A part of the message with which opening is refused; `nil` when the image opens.
    public var refusal: String?
    /// A part of the message with which reading the whole disk fails; `nil` when it can be read.
    public var readFailure: String?
    /// What a check finds, in images that open.
    public var finding: Finding
    /// Whether `check -r all` must leave an image in which a check finds nothing.
    public var isRepairable: Bool

    public var description: String { name }

    typealias Field = Qcow2Bytes.Field
    typealias Incompatible = Qcow2Bytes.Incompatible
    typealias Autoclear = Qcow2Bytes.Autoclear
    typealias Extension = Qcow2Bytes.Extension
    typealias ExtensionType = Qcow2Bytes.ExtensionType
    typealias Snapshot = Qcow2Bytes.Snapshot
    typealias Cluster = Qcow2Bytes.Cluster

    /// An image that must not open.
    static func refused(
        _ name: String, _ refusal: String, _ image: Qcow2Bytes = Qcow2Bytes(),
        _ damage: (inout Qcow2Bytes) -> Void
    ) -> HostileCase {
        var image = image
        damage(&image)
        return HostileCase(
            name: name, image: image, refusal: refusal, readFailure: nil, finding: .nothing,
            isRepairable: false
        )
    }

    /// An image that opens.
    static func opens(
        _ name: String, _ finding: Finding, read readFailure: String? = nil, repairable: Bool = false,
        _ image: Qcow2Bytes = Qcow2Bytes(), _ damage: (inout Qcow2Bytes) -> Void
    ) -> HostileCase {
        var image = image
        damage(&image)
        return HostileCase(
            name: name, image: image, refusal: nil, readFailure: readFailure, finding: finding,
            isRepairable: repairable || finding == .nothing)
    }

    /// All of them, qcow2.
    public static let all: [HostileCase] =
        headers + headerTables + names + extensions + features + refcounts + mappings + compressedData
        + snapshots + subclusters + otherMetadata + encryption + bitmaps
}
