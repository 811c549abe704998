import BlockCore

/// Create options that several formats share.
extension CreateOptionKey {
    public static let encryption = CreateOptionKey("encryption")
    public static let encryptFormat = CreateOptionKey("encrypt.format")
    public static let encryptKeySecret = CreateOptionKey("encrypt.key-secret")
    public static let clusterSize = CreateOptionKey("cluster_size")
    public static let subformat = CreateOptionKey("subformat")
    public static let blockSize = CreateOptionKey("block_size")
}
