import BlockCore

extension Qcow2Driver: SpaceSharing {
    public var sharingChild: Int? { data.encryption == nil && !isEncrypted ? data.child : nil }
}
