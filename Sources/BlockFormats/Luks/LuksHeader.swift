import BlockCore

/// The header of a LUKS1 volume. All numbers are big-endian; offsets are in sectors.
///
///     0 magic  6 version  8 cipher name  40 cipher mode  72 hash  104 payload offset  108 key bytes
///     112 digest of the master key  132 its salt  164 its iterations  168 UUID
///     208 eight slots of 48 bytes: flag, iterations, salt, offset of the key material, stripes
///
/// A value type.
struct LuksHeader: Sendable, Equatable {
    var suite: CipherSuite
    /// The stored text of the mode and the vector generator, such as `xts-plain64`.
    var modeText: String
    var hash: HashAlgorithm
    /// The start of the data, in bytes from the start of the header; 0 when they are in another file.
    var payloadOffset: Int
    var digest = [UInt8](repeating: 0, count: Luks.digestBytes)
    var digestSalt = [UInt8](repeating: 0, count: Luks.saltBytes)
    var digestIterations = 0
    var uuid = ""
    var slots = [LuksSlot](repeating: LuksSlot(), count: Luks.slotCount)

    private static let slotsOffset = 208
    private static let slotSize = 48

    /// - Parameter vectorHash: a hash that is appended to the vector generator's name, even if it needs none.
    init(suite: CipherSuite, hash: HashAlgorithm, vectorHash: HashAlgorithm?, payloadOffset: Int) {
        self.suite = suite
        self.hash = hash
        self.payloadOffset = payloadOffset
        let suffix = (vectorHash ?? suite.ivGenerator.hash).map { ":\($0.rawValue)" } ?? ""
        modeText = "\(suite.mode.rawValue)-\(suite.ivGenerator.name)\(suffix)"
    }

    /// The hash in the vector generator's name.
    var vectorHash: String? {
        let parts = modeText.split(separator: ":", maxSplits: 1)
        return parts.count == 2 ? Self.printable(String(parts[1])) : nil
    }

    var keyBytes: Int { suite.keyBytes }
    var activeSlots: [Int] { slots.indices.filter { slots[$0].isActive } }

    // MARK: Reading

    /// Parses and validates a header.
    ///
    /// - Throws: `wrongFormat`, `unsupported`, `corrupt` or `limit`, with the reason.
    static func parse(_ bytes: RawSpan) throws(BlockError) -> LuksHeader {
        guard bytes.part(0..<Luks.magic.count)?.array == Luks.magic else {
            throw BlockError(.wrongFormat, "Volume is not in LUKS format")
        }
        let version: UInt16 = bytes.bigEndian(at: 6) ?? 0
        guard version == Luks.version else {
            throw BlockError(.unsupported, "LUKS version \(version) is not supported")
        }
        guard bytes.byteCount >= Luks.headerBytes else {
            throw BlockError(.corrupt, "The LUKS header is cut short")
        }
        let hashName = text(bytes, 72, 32)
        guard let hash = HashAlgorithm(rawValue: hashName) else {
            throw BlockError(.unsupported, "Hash algorithm '\(printable(hashName))' is not supported")
        }
        let modeText = text(bytes, 40, 32)
        let keyBytes = Int(bytes.bigEndian(UInt32.self, at: 108) ?? 0)
        let suite = try suite(cipher: text(bytes, 8, 32), mode: modeText, keyBytes: keyBytes)
        let payload = Int(bytes.bigEndian(UInt32.self, at: 104) ?? 0) * Luks.sectorBytes
        var header = LuksHeader(suite: suite, hash: hash, vectorHash: nil, payloadOffset: payload)
        header.modeText = modeText
        header.digest = bytes.part(112..<132)?.array ?? []
        header.digestSalt = bytes.part(132..<164)?.array ?? []
        header.digestIterations = Int(bytes.bigEndian(UInt32.self, at: 164) ?? 0)
        header.uuid = printable(text(bytes, 168, 40))
        for index in 0..<Luks.slotCount { header.slots[index] = try slot(bytes, index) }
        try header.validate()
        return header
    }

    private static func text(_ bytes: RawSpan, _ offset: Int, _ count: Int) -> String {
        let field = bytes.part(offset..<offset + count)?.array ?? []
        return String(decoding: field.prefix { $0 != 0 }, as: UTF8.self)
    }

    /// The text of an untrusted header, made safe for a terminal.
    private static func printable(_ text: String) -> String {
        String(text.map { $0.isASCII && $0 >= " " && $0 <= "~" ? $0 : "?" })
    }

    private static func suite(
        cipher: String, mode: String, keyBytes: Int
    ) throws(BlockError) -> CipherSuite {
        let refusal = BlockError(
            .unsupported,
            "Cipher '\(printable(cipher))-\(printable(mode))' with \(keyBytes) key bytes is not supported")
        let parts = mode.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
        guard cipher == "aes", parts.count == 2, let mode = CipherMode(rawValue: String(parts[0])),
            let algorithm = CipherAlgorithm.allCases.first(where: { $0.keyBytes * mode.keyCount == keyBytes })
        else { throw refusal }
        let words = parts[1].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let hash = words.count == 2 ? HashAlgorithm(rawValue: String(words[1])) : nil
        let generator: IVGenerator
        switch words.first {
        case "plain": generator = .plain
        case "plain64": generator = .plain64
        case "essiv":
            guard let hash else { throw refusal }
            generator = .essiv(hash)
        default: throw refusal
        }
        let suite = CipherSuite(algorithm: algorithm, mode: mode, ivGenerator: generator)
        _ = try suite.essivAlgorithm
        return suite
    }

    private static func slot(_ bytes: RawSpan, _ index: Int) throws(BlockError) -> LuksSlot {
        let start = slotsOffset + index * slotSize
        let flag: UInt32 = bytes.bigEndian(at: start) ?? 0
        guard flag == Luks.activeFlag || flag == Luks.inactiveFlag else {
            throw BlockError(.corrupt, "Keyslot \(index) state is corrupted")
        }
        let stripes: UInt32 = bytes.bigEndian(at: start + 44) ?? 0
        guard stripes == Luks.stripes else {
            throw BlockError(
                .corrupt, "Keyslot \(index) is corrupted (stripes \(stripes) != \(Luks.stripes))")
        }
        return LuksSlot(
            isActive: flag == Luks.activeFlag,
            iterations: Int(bytes.bigEndian(UInt32.self, at: start + 4) ?? 0),
            salt: bytes.part(start + 8..<start + 40)?.array ?? [],
            materialOffset: Int(bytes.bigEndian(UInt32.self, at: start + 40) ?? 0) * Luks.sectorBytes)
    }

    /// Checks that key material overlaps neither the header, the data nor another slot's, and that the work
    /// is within the limit.
    private func validate() throws(BlockError) {
        let size = Luks.materialBytes(keyBytes: keyBytes)
        for (index, slot) in slots.enumerated() {
            let range = slot.materialOffset..<slot.materialOffset + size
            guard range.lowerBound >= Luks.headerBytes,
                payloadOffset == 0 || range.upperBound <= payloadOffset
            else { throw BlockError(.corrupt, "Keyslot \(index) overlaps the header or the data") }
            guard !slot.isActive || slot.iterations > 0 else {
                throw BlockError(.corrupt, "Keyslot \(index) iteration count is zero")
            }
            for other in slots.indices where other > index {
                let next = slots[other].materialOffset
                guard !range.overlaps(next..<next + size) else {
                    throw BlockError(.corrupt, "Keyslots \(index) and \(other) are overlapping in the header")
                }
            }
        }
        guard digestIterations > 0 else {
            throw BlockError(.corrupt, "Master key iteration count is zero")
        }
        guard derivationWork <= Luks.Limit.derivationWork else {
            throw BlockError(.limit, "The LUKS header asks for too many iterations of key derivation")
        }
    }

    /// The number of digests for trying all active slots.
    var derivationWork: Int {
        activeSlots.reduce(into: 0) { sum, index in
            sum += slots[index].iterations * digests(in: keyBytes) + checkWork
        }
    }

    /// The number of digests for checking one key.
    private var checkWork: Int { digestIterations * digests(in: Luks.digestBytes) }

    private func digests(in bytes: Int) -> Int { bytes.dividedRoundingUp(by: hash.digestBytes) }

    /// The most iterations that one more slot may have within the limit of opening.
    ///
    /// - Throws: `limit` when the active slots use up the limit.
    var maximumIterations: Int {
        get throws(BlockError) {
            let rest = Luks.Limit.derivationWork - derivationWork - checkWork
            let maximum = min(rest, Luks.Limit.slotWork) / digests(in: keyBytes)
            guard maximum >= KeyStretching.minimumIterations else {
                throw BlockError(.limit, "The active key slots ask for as many iterations as may be")
            }
            return maximum
        }
    }

    // MARK: Writing

    /// The bytes of the header.
    func bytes() -> [UInt8] {
        [UInt8](zeroed: Luks.headerBytes) { span in
            let magic = Luks.magic
            span.copy(from: magic.span.bytes)
            span.storeBigEndian(Luks.version, at: 6)
            span.copy(from: Array("aes".utf8).span.bytes, at: 8)
            span.copy(from: Array(modeText.utf8.prefix(31)).span.bytes, at: 40)
            span.copy(from: Array(hash.rawValue.utf8).span.bytes, at: 72)
            span.storeBigEndian(UInt32(truncatingIfNeeded: payloadOffset / Luks.sectorBytes), at: 104)
            span.storeBigEndian(UInt32(truncatingIfNeeded: keyBytes), at: 108)
            span.copy(from: digest.span.bytes, at: 112)
            span.copy(from: digestSalt.span.bytes, at: 132)
            span.storeBigEndian(UInt32(truncatingIfNeeded: digestIterations), at: 164)
            span.copy(from: Array(uuid.utf8.prefix(39)).span.bytes, at: 168)
            for (index, slot) in slots.enumerated() {
                let start = Self.slotsOffset + index * Self.slotSize
                span.storeBigEndian(slot.isActive ? Luks.activeFlag : Luks.inactiveFlag, at: start)
                span.storeBigEndian(UInt32(truncatingIfNeeded: slot.iterations), at: start + 4)
                span.copy(from: slot.salt.span.bytes, at: start + 8)
                span.storeBigEndian(
                    UInt32(truncatingIfNeeded: slot.materialOffset / Luks.sectorBytes), at: start + 40)
                span.storeBigEndian(UInt32(Luks.stripes), at: start + 44)
            }
        }
    }
}
