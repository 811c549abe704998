/// LUKS1 headers put together byte by byte from the specification, which take next to no time to open.
///
/// Salts and key material are all zero and every derivation has one iteration; the key that follows from them
/// is what it is, and ``digest`` is the digest of that key. Offsets are in bytes.
public enum LuksBytes {
    /// The passphrase of slot 0.
    public static let passphrase = "hunter2"
    /// What the master key's digest comes to, computed by other means than the driver's.
    private static let digest: [UInt8] = [
        0x73, 0xf7, 0x09, 0x44, 0x51, 0xb2, 0x24, 0xe9, 0x96, 0x2f, 0x21, 0xd1, 0xb7, 0x9c, 0x8a, 0x87, 0xfa,
        0xa1, 0xff, 0x2b,
    ]
    public static let headerBytes = 592
    private static let sectorBytes = 512
    private static let slots = 8
    /// 4000 stripes of 16 bytes, rounded up to 4096.
    private static let materialSectors = 128
    private static let firstMaterial = 8
    /// Where the data starts; header and key material lie before it.
    public static let payload = (firstMaterial + slots * materialSectors) * sectorBytes

    /// AES-128 in CBC mode with plain64 vectors and SHA-256; slot 0 is active.
    public static let header: [UInt8] = {
        var bytes = Array("LUKS".utf8) + [0xba, 0xbe, 0, 1]
        func put(_ text: String, until end: Int) {
            bytes += Array(text.utf8)
            bytes += [UInt8](repeating: 0, count: end - bytes.count)
        }
        func put(_ number: Int) {
            bytes += ImageBytes.big(UInt32(number))
        }
        put("aes", until: 40)
        put("cbc-plain64", until: 72)
        put("sha256", until: 104)
        put(payload / sectorBytes)
        put(16)
        bytes += digest + [UInt8](repeating: 0, count: 32)
        put(1)
        put("00000000-0000-4000-8000-000000000000", until: 208)
        for slot in 0..<slots {
            put(slot == 0 ? 0x00ac_71f3 : 0x0000_dead)
            put(1)
            put("", until: bytes.count + 32)
            put(firstMaterial + slot * materialSectors)
            put(4000)
        }
        return bytes
    }()

    /// Where iterations are told, as 32-bit numbers.
    public static let iterationFields = [164] + (0..<slots).map { 208 + $0 * 48 + 4 }

    /// A volume of eight sectors of data, which are noise.
    public static let volume: SparseBytes = {
        var volume = SparseBytes(count: payload + 8 * sectorBytes)
        volume.write(header, at: 0)
        return volume
    }()
}
