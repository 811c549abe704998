/// What a driver can do beyond its protocol, as the compiler knows it.
///
/// A cast (`driver as? any ZeroWriting`) gives the same, but the first one of each kind looks through all
/// conformances of the program, which is what start-up would mostly be spent on.
extension FormatDriver {
    public var asClearing: (any Clearing)? { nil }
    public var asZeroWriting: (any ZeroWriting)? { nil }
    public var asDiscarding: (any Discarding)? { nil }
    public var asBitmapCapable: (any BitmapCapable)? { nil }
    public var asSnapshotCapable: (any SnapshotCapable)? { nil }

    /// Whether each answer is that of a cast: it is not where a subclass adds a conformance.
    var knowsItsAbilities: Bool {
        asClearing === (self as? any Clearing)
            && asZeroWriting === (self as? any ZeroWriting) && asDiscarding === (self as? any Discarding)
            && asBitmapCapable === (self as? any BitmapCapable)
            && asSnapshotCapable === (self as? any SnapshotCapable)
    }
}

extension Clearing {
    public var asClearing: (any Clearing)? { self }
}

extension ZeroWriting {
    public var asZeroWriting: (any ZeroWriting)? { self }
}

extension Discarding {
    public var asDiscarding: (any Discarding)? { self }
}

extension BitmapCapable {
    public var asBitmapCapable: (any BitmapCapable)? { self }
}

extension SnapshotCapable {
    public var asSnapshotCapable: (any SnapshotCapable)? { self }
}

extension ProtocolDriver {
    public var asUseDeclaring: (any UseDeclaring)? { nil }
    public var asEventListener: (any MetadataEventListener)? { nil }

    /// Whether each answer is that of a cast.
    var knowsItsAbilities: Bool {
        asUseDeclaring === (self as? any UseDeclaring)
            && asEventListener === (self as? any MetadataEventListener)
    }
}

extension UseDeclaring {
    public var asUseDeclaring: (any UseDeclaring)? { self }
}

extension ProtocolDriver where Self: MetadataEventListener {
    public var asEventListener: (any MetadataEventListener)? { self }
}
