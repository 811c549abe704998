/// The abilities of a format beyond ``FormatDriver``, resolved by the compiler.
///
/// No driver implements these properties: conforming to a protocol of Capabilities.swift does.
///
/// A cast (`driver as? any Resizable`) gives the same answer, but the first cast of each kind searches all
/// conformances of the program, which would take most of the start-up time. A new ability needs a protocol, a
/// requirement here and its two answers.
public protocol AbilityKnowing: AnyObject, Sendable {
    static var asCreatable: (any Creatable.Type)? { get }
    static var asMeasurable: (any Measurable.Type)? { get }
    static var asAmendable: (any Amendable.Type)? { get }
    static var asBackingChecking: (any BackingChecking.Type)? { get }
    static var asBitmapCapable: (any BitmapCapable.Type)? { get }
    static var asCompressedWriting: (any CompressedWriting.Type)? { get }
    static var asStreamWriting: (any StreamWriting.Type)? { get }

    var asClearing: (any Clearing)? { get }
    var asBitmapCapable: (any BitmapCapable)? { get }
    var asSnapshotCapable: (any SnapshotCapable)? { get }
    var asVMStateCapable: (any VMStateCapable)? { get }
    var asRebasable: (any Rebasable)? { get }
    var asBackingChecking: (any BackingChecking)? { get }
    var asParentIdentifying: (any ParentIdentifying)? { get }
    var asContentIdentifying: (any ContentIdentifying)? { get }
    var asResizable: (any Resizable)? { get }
    var asCompressedWriting: (any CompressedWriting)? { get }
    var asStreamWriting: (any StreamWriting)? { get }
    var asSpaceSharing: (any SpaceSharing)? { get }
    var asEmptying: (any Emptying)? { get }
    var asRereading: (any Rereading)? { get }
    var asCheckable: (any Checkable)? { get }
    var asAmendable: (any Amendable)? { get }
}

/// The answers of a driver that does not conform to the protocol.
extension FormatDriver {
    public static var asCreatable: (any Creatable.Type)? { nil }
    public static var asMeasurable: (any Measurable.Type)? { nil }
    public static var asAmendable: (any Amendable.Type)? { nil }
    public static var asBackingChecking: (any BackingChecking.Type)? { nil }
    public static var asBitmapCapable: (any BitmapCapable.Type)? { nil }
    public static var asCompressedWriting: (any CompressedWriting.Type)? { nil }
    public static var asStreamWriting: (any StreamWriting.Type)? { nil }

    public var asClearing: (any Clearing)? { nil }
    public var asBitmapCapable: (any BitmapCapable)? { nil }
    public var asSnapshotCapable: (any SnapshotCapable)? { nil }
    public var asVMStateCapable: (any VMStateCapable)? { nil }
    public var asRebasable: (any Rebasable)? { nil }
    public var asBackingChecking: (any BackingChecking)? { nil }
    public var asParentIdentifying: (any ParentIdentifying)? { nil }
    public var asContentIdentifying: (any ContentIdentifying)? { nil }
    public var asResizable: (any Resizable)? { nil }
    public var asCompressedWriting: (any CompressedWriting)? { nil }
    public var asStreamWriting: (any StreamWriting)? { nil }
    public var asSpaceSharing: (any SpaceSharing)? { nil }
    public var asEmptying: (any Emptying)? { nil }
    public var asRereading: (any Rereading)? { nil }
    public var asCheckable: (any Checkable)? { nil }
    public var asAmendable: (any Amendable)? { nil }

    /// Whether each answer is that of a cast, which differs if a subclass adds a conformance.
    var knowsItsAbilities: Bool {
        let answers: [(any FormatDriver)?] = [
            asClearing,
            asBitmapCapable,
            asSnapshotCapable,
            asVMStateCapable,
            asRebasable,
            asBackingChecking,
            asParentIdentifying,
            asContentIdentifying,
            asResizable,
            asCompressedWriting,
            asStreamWriting,
            asSpaceSharing,
            asEmptying,
            asRereading,
            asCheckable,
            asAmendable,
        ]
        let casts: [(any FormatDriver)?] = [
            self as? any Clearing,
            self as? any BitmapCapable,
            self as? any SnapshotCapable,
            self as? any VMStateCapable,
            self as? any Rebasable,
            self as? any BackingChecking,
            self as? any ParentIdentifying,
            self as? any ContentIdentifying,
            self as? any Resizable,
            self as? any CompressedWriting,
            self as? any StreamWriting,
            self as? any SpaceSharing,
            self as? any Emptying,
            self as? any Rereading,
            self as? any Checkable,
            self as? any Amendable,
        ]
        return zip(answers, casts).allSatisfy { $0 === $1 }
    }
}

extension Clearing {
    public var asClearing: (any Clearing)? { self }
}

extension BitmapCapable {
    public static var asBitmapCapable: (any BitmapCapable.Type)? { self }
    public var asBitmapCapable: (any BitmapCapable)? { self }
}

extension SnapshotCapable {
    public var asSnapshotCapable: (any SnapshotCapable)? { self }
}

extension VMStateCapable {
    public var asVMStateCapable: (any VMStateCapable)? { self }
}

extension Rebasable {
    public var asRebasable: (any Rebasable)? { self }
}

extension BackingChecking {
    public static var asBackingChecking: (any BackingChecking.Type)? { self }
    public var asBackingChecking: (any BackingChecking)? { self }
}

extension ParentIdentifying {
    public var asParentIdentifying: (any ParentIdentifying)? { self }
}

extension ContentIdentifying {
    public var asContentIdentifying: (any ContentIdentifying)? { self }
}

extension Resizable {
    public var asResizable: (any Resizable)? { self }
}

extension CompressedWriting {
    public static var asCompressedWriting: (any CompressedWriting.Type)? { self }
    public var asCompressedWriting: (any CompressedWriting)? { self }
}

extension StreamWriting {
    public static var asStreamWriting: (any StreamWriting.Type)? { self }
    public var asStreamWriting: (any StreamWriting)? { self }
}

extension SpaceSharing {
    public var asSpaceSharing: (any SpaceSharing)? { self }
}

extension Emptying {
    public var asEmptying: (any Emptying)? { self }
}

extension Rereading {
    public var asRereading: (any Rereading)? { self }
}

extension Checkable {
    public var asCheckable: (any Checkable)? { self }
}

extension Amendable {
    public static var asAmendable: (any Amendable.Type)? { self }
    public var asAmendable: (any Amendable)? { self }
}

extension Creatable {
    public static var asCreatable: (any Creatable.Type)? { self }
}

extension Measurable {
    public static var asMeasurable: (any Measurable.Type)? { self }
}

extension ProtocolDriver {
    public var asUseDeclaring: (any UseDeclaring)? { nil }
    public var asEventListener: (any MetadataEventListener)? { nil }
    public var asRemovable: (any RemovableMedium)? { nil }
    public var asSCSIPassing: (any SCSIPassing)? { nil }

    /// Whether each answer is that of a cast.
    var knowsItsAbilities: Bool {
        asUseDeclaring === (self as? any UseDeclaring)
            && asEventListener === (self as? any MetadataEventListener)
            && asRemovable === (self as? any RemovableMedium)
            && asSCSIPassing === (self as? any SCSIPassing)
    }
}

extension UseDeclaring {
    public var asUseDeclaring: (any UseDeclaring)? { self }
}

extension RemovableMedium {
    public var asRemovable: (any RemovableMedium)? { self }
}

extension SCSIPassing {
    public var asSCSIPassing: (any SCSIPassing)? { self }
}

extension ProtocolDriver where Self: MetadataEventListener {
    public var asEventListener: (any MetadataEventListener)? { self }
}
