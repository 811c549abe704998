import BlockCore

/// The header of a LUKS1 volume. Its fields are in LuksHeaderFields.swift.
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
        guard magicField.bytes(in: bytes) == Luks.magic else {
            throw BlockError(.wrongFormat, "Volume is not in LUKS format")
        }
        let version = versionField.number(in: bytes)
        guard version == UInt64(Luks.version) else {
            throw BlockError(.unsupported, "LUKS version \(version) is not supported")
        }
        guard bytes.byteCount >= Luks.headerBytes else {
            throw BlockError(.corrupt, "The LUKS header is cut short")
        }
        let hashName = hashField.text(in: bytes)
        guard let hash = HashAlgorithm(rawValue: hashName) else {
            throw BlockError(.unsupported, "Hash algorithm '\(printable(hashName))' is not supported")
        }
        let suite = try suite(
            cipher: cipherField.text(in: bytes), mode: modeField.text(in: bytes),
            keyBytes: Int(truncatingIfNeeded: keyBytesField.number(in: bytes)))
        var header = LuksHeader(suite: suite, hash: hash, vectorHash: nil, payloadOffset: 0)
        header.modeText = modeField.text(in: bytes)
        header.uuid = printable(uuidField.text(in: bytes))
        try header.readFields(bytes)
        for index in 0..<Luks.slotCount { header.slots[index] = try slot(bytes, index) }
        try header.validate()
        return header
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
        let bytes = bytes.extracting(slotRange(index))
        let flag = LuksSlot.flagField.number(in: bytes)
        guard flag == UInt64(Luks.activeFlag) || flag == UInt64(Luks.inactiveFlag) else {
            throw BlockError(.corrupt, "Keyslot \(index) state is corrupted")
        }
        let stripes = LuksSlot.stripesField.number(in: bytes)
        guard stripes == UInt64(Luks.stripes) else {
            throw BlockError(
                .corrupt, "Keyslot \(index) is corrupted (stripes \(stripes) != \(Luks.stripes))")
        }
        var slot = LuksSlot()
        try slot.readFields(bytes)
        return slot
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
        var result = fieldBytes(count: Luks.headerBytes)
        for (index, slot) in slots.enumerated() {
            result.replaceSubrange(Self.slotRange(index), with: slot.fieldBytes(count: Luks.slotEntryBytes))
        }
        return result
    }

    /// The bytes of a slot, in a header of full length.
    private static func slotRange(_ index: Int) -> Range<Int> {
        let start = slotsField.offset + index * Luks.slotEntryBytes
        return start..<start + Luks.slotEntryBytes
    }
}
