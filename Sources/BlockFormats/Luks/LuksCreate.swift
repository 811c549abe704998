import BlockCore

extension LuksDriver: Measurable {
    public static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.keySecret, .string, help: "ID of the secret that unlocks the volume"),
            CreateOption(.cipherAlg, .string, help: "Cipher: aes-128, aes-192 or aes-256 (the default)"),
            CreateOption(.cipherMode, .string, help: "Mode of the cipher: xts (the default) or cbc"),
            CreateOption(
                .ivgenAlg, .string, help: "Initialisation vectors: plain64 (the default), plain or essiv"),
            CreateOption(.ivgenHashAlg, .string, help: "Hash for essiv (default: sha256)"),
            CreateOption(
                .hashAlg, .string, help: "Hash for deriving keys: sha1, sha224, sha256, sha384 or sha512"),
            CreateOption(
                .iterTime, .number, help: "Milliseconds that unlocking shall take (default: 2000)"),
            CreateOption(.detachedHeader, .bool, help: "Make the header alone, for a disk in another file"),
        ]
    }

    /// - Throws: `invalidArgument`, `unsupported`, `limit`, `notFound` for the secret; `io`, `noSpace`,
    ///   `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let plan = try LuksPlan(options, .plain)
        let passphrase = try context.secrets.passphrase(try secretName(options))
        let preallocation = try options.preallocation()
        let isDetached = options.flag(.detachedHeader)
        let area = Luks.areaBytes(keyBytes: plan.suite.keyBytes)
        let sizes = try fileSize(plan, isDetached ? 0 : options.integer(.size) ?? 0)
        let file = try context.createFile(
            size: sizes, preallocation: preallocation == .metadata ? .off : preallocation)
        do throws(BlockError) {
            _ = try LuksVolume.create(
                plan, passphrase: passphrase, payloadOffset: isDetached ? 0 : area,
                in: LuksArea(node: file, base: 0, length: area))
        } catch {
            try? file.close()
            throw error
        }
        try file.close()
    }

    private static func secretName(_ options: CreateOptions) throws(BlockError) -> String {
        guard let name = options[.keySecret] else {
            throw BlockError(.invalidArgument, "Parameter 'key-secret' is required for cipher")
        }
        return name
    }

    /// The size of header, key material and disk, in bytes.
    private static func fileSize(_ plan: LuksPlan, _ virtualSize: Int) throws(BlockError) -> Int {
        let area = Luks.areaBytes(keyBytes: plan.suite.keyBytes)
        guard let rounded = virtualSize.roundedUp(to: Luks.sectorBytes), rounded <= Int.max - area else {
            throw BlockError(.limit, "The requested file size is too large")
        }
        return area + rounded
    }

    /// - Throws: `invalidArgument`, `unsupported`, `limit`.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        _ = try secretName(options)
        let size = try fileSize(
            try LuksPlan(options, .plain), options.flag(.detachedHeader) ? 0 : virtualSize)
        return MeasuredSize(required: size, fullyAllocated: size)
    }
}
