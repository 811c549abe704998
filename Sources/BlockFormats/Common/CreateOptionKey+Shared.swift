import BlockCore

/// Create options that several formats share.
extension CreateOptionKey {
    /// `on` encrypts by the old method with AES.
    public static let encryption = CreateOptionKey("encryption")
    /// The method of encryption: `luks` or `aes`.
    public static let encryptFormat = CreateOptionKey("encrypt.format")
    /// The id of the secret that unlocks the image.
    public static let encryptKeySecret = CreateOptionKey("encrypt.key-secret")
    /// The bytes of a cluster.
    public static let clusterSize = CreateOptionKey("cluster_size")
    /// The variant of the format.
    public static let subformat = CreateOptionKey("subformat")
    /// The bytes of a block.
    public static let blockSize = CreateOptionKey("block_size")
}
