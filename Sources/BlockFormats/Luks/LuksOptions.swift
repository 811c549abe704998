import BlockCore

/// Create options of LUKS, alone and inside another format (`encrypt.`).
extension CreateOptionKey {
    public static let keySecret = CreateOptionKey("key-secret")
    public static let cipherAlg = CreateOptionKey("cipher-alg")
    public static let cipherMode = CreateOptionKey("cipher-mode")
    public static let ivgenAlg = CreateOptionKey("ivgen-alg")
    public static let ivgenHashAlg = CreateOptionKey("ivgen-hash-alg")
    public static let hashAlg = CreateOptionKey("hash-alg")
    public static let iterTime = CreateOptionKey("iter-time")
    public static let detachedHeader = CreateOptionKey("detached-header")
    public static let state = CreateOptionKey("state")
    public static let newSecret = CreateOptionKey("new-secret")
    public static let oldSecret = CreateOptionKey("old-secret")
    public static let keyslot = CreateOptionKey("keyslot")
    public static let encryptCipherAlg = CreateOptionKey("encrypt.cipher-alg")
    public static let encryptCipherMode = CreateOptionKey("encrypt.cipher-mode")
    public static let encryptIvgenAlg = CreateOptionKey("encrypt.ivgen-alg")
    public static let encryptIvgenHashAlg = CreateOptionKey("encrypt.ivgen-hash-alg")
    public static let encryptHashAlg = CreateOptionKey("encrypt.hash-alg")
    public static let encryptIterTime = CreateOptionKey("encrypt.iter-time")
    public static let encryptState = CreateOptionKey("encrypt.state")
    public static let encryptNewSecret = CreateOptionKey("encrypt.new-secret")
    public static let encryptOldSecret = CreateOptionKey("encrypt.old-secret")
    public static let encryptKeyslot = CreateOptionKey("encrypt.keyslot")
}
