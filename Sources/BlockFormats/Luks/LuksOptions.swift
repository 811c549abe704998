import BlockCore

/// Create options of LUKS, alone and inside another format (`encrypt.`).
extension CreateOptionKey {
    /// The id of the secret that unlocks the volume.
    public static let keySecret = CreateOptionKey("key-secret")
    /// The cipher, with the bits of its key: `aes-256`.
    public static let cipherAlg = CreateOptionKey("cipher-alg")
    /// The mode of the cipher: `xts` or `cbc`.
    public static let cipherMode = CreateOptionKey("cipher-mode")
    /// How initialisation vectors are made: `plain64`, `plain` or `essiv`.
    public static let ivgenAlg = CreateOptionKey("ivgen-alg")
    /// The hash for `essiv`.
    public static let ivgenHashAlg = CreateOptionKey("ivgen-hash-alg")
    /// The hash from which keys are derived.
    public static let hashAlg = CreateOptionKey("hash-alg")
    /// The time that unlocking takes, in milliseconds.
    public static let iterTime = CreateOptionKey("iter-time")
    /// Whether the header is made alone, for a disk in another file.
    public static let detachedHeader = CreateOptionKey("detached-header")
    /// `active` fills a key slot, `inactive` erases it.
    public static let state = CreateOptionKey("state")
    /// The id of the passphrase for a slot that is filled.
    public static let newSecret = CreateOptionKey("new-secret")
    /// The id of the passphrase whose slots are erased.
    public static let oldSecret = CreateOptionKey("old-secret")
    /// The number of the key slot to change, from 0 to 7.
    public static let keyslot = CreateOptionKey("keyslot")
    /// As ``cipherAlg``, for LUKS inside another format.
    public static let encryptCipherAlg = CreateOptionKey("encrypt.cipher-alg")
    /// As ``cipherMode``, for LUKS inside another format.
    public static let encryptCipherMode = CreateOptionKey("encrypt.cipher-mode")
    /// As ``ivgenAlg``, for LUKS inside another format.
    public static let encryptIvgenAlg = CreateOptionKey("encrypt.ivgen-alg")
    /// As ``ivgenHashAlg``, for LUKS inside another format.
    public static let encryptIvgenHashAlg = CreateOptionKey("encrypt.ivgen-hash-alg")
    /// As ``hashAlg``, for LUKS inside another format.
    public static let encryptHashAlg = CreateOptionKey("encrypt.hash-alg")
    /// As ``iterTime``, for LUKS inside another format.
    public static let encryptIterTime = CreateOptionKey("encrypt.iter-time")
    /// As ``state``, for LUKS inside another format.
    public static let encryptState = CreateOptionKey("encrypt.state")
    /// As ``newSecret``, for LUKS inside another format.
    public static let encryptNewSecret = CreateOptionKey("encrypt.new-secret")
    /// As ``oldSecret``, for LUKS inside another format.
    public static let encryptOldSecret = CreateOptionKey("encrypt.old-secret")
    /// As ``keyslot``, for LUKS inside another format.
    public static let encryptKeyslot = CreateOptionKey("encrypt.keyslot")
}
