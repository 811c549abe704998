import BlockCore

/// A LUKS header with its key slots, and its place. A value type.
struct LuksVolume: Sendable {
    let area: LuksArea
    var header: LuksHeader

    init(area: LuksArea, header: LuksHeader) {
        self.area = area
        self.header = header
    }

    /// Reads the header; needs no key.
    init(reading area: LuksArea) throws(BlockError) {
        self.area = area
        let bytes = try area.read(at: 0, count: min(area.length, Luks.headerBytes))
        header = try LuksHeader.parse(bytes.span.bytes)
    }

    // MARK: Unlocking

    /// The master key from the first slot that the passphrase opens.
    ///
    /// - Throws: `denied` when it opens none; `io`.
    func unlock(_ passphrase: KeyMaterial) throws(BlockError) -> KeyMaterial {
        for index in header.activeSlots {
            if let key = try unlock(slot: index, passphrase) { return key }
        }
        throw BlockError(
            .denied, "Invalid password, cannot unlock any keyslot", path: area.node.filename)
    }

    /// The master key, if the passphrase opens that active slot.
    func unlock(slot index: Int, _ passphrase: KeyMaterial) throws(BlockError) -> KeyMaterial? {
        let slot = header.slots[index]
        let cipher = try slotCipher(slot, passphrase)
        let size = Luks.materialBytes(keyBytes: header.keyBytes)
        let encrypted = try area.read(at: slot.materialOffset, count: size)
        let stripes = try KeyMaterial(count: size) { bytes throws(BlockError) in
            bytes.copy(from: encrypted.span.bytes)
            try cipher.decrypt(&bytes, firstSector: 0)
        }
        let key = try AntiForensic.merge(stripes.bytes, keyBytes: header.keyBytes, hash: header.hash)
        let digest = try digest(of: key)
        return LibCrypto.areEqual(digest.bytes, header.digest.span.bytes) ? key : nil
    }

    /// The cipher of a slot's key material.
    private func slotCipher(
        _ slot: LuksSlot, _ passphrase: KeyMaterial
    ) throws(BlockError) -> SectorCipher {
        let key = try KeyMaterial(count: header.keyBytes) { key throws(BlockError) in
            try LibCrypto.deriveKey(
                from: passphrase.bytes, salt: slot.salt.span.bytes, iterations: slot.iterations, header.hash,
                into: &key)
        }
        return try SectorCipher(header.suite, key: key)
    }

    private func digest(of key: KeyMaterial) throws(BlockError) -> KeyMaterial {
        try KeyMaterial(count: Luks.digestBytes) { digest throws(BlockError) in
            try LibCrypto.deriveKey(
                from: key.bytes, salt: header.digestSalt.span.bytes, iterations: header.digestIterations,
                header.hash, into: &digest)
        }
    }

    // MARK: Making

    /// Makes a master key and a header for it, with one slot for the passphrase.
    ///
    /// The order of writes: key material and the header's end; a flush; then the header's first sector, which
    /// makes the file a volume.
    static func create(
        _ plan: LuksPlan, passphrase: KeyMaterial, payloadOffset: Int, in area: LuksArea
    ) throws(BlockError) -> (volume: LuksVolume, key: KeyMaterial) {
        let header = LuksHeader(
            suite: plan.suite, hash: plan.hash, vectorHash: plan.vectorHash, payloadOffset: payloadOffset)
        var volume = LuksVolume(area: area, header: header)
        let key = try KeyMaterial(count: plan.suite.keyBytes) { key throws(BlockError) in
            try LibCrypto.randomise(&key)
        }
        volume.header.uuid = ImageUUID.make(seed: nil).text
        volume.header.digestSalt = try LibCrypto.randomBytes(Luks.saltBytes)
        volume.header.digestIterations = try KeyStretching.iterations(
            plan.hash, keyBytes: Luks.digestBytes, milliseconds: plan.iterationMilliseconds / 8,
            maximum: Luks.Limit.slotWork / 8)
        let digest = try volume.digest(of: key)
        volume.header.digest = digest.bytes.array
        for index in 0..<Luks.slotCount {
            volume.header.slots[index].materialOffset =
                Luks.alignmentBytes + index * Luks.slotBytes(keyBytes: plan.suite.keyBytes)
        }
        volume.header.slots[0] = try volume.fill(slot: 0, key, passphrase, plan.iterationMilliseconds)
        try volume.writeHeader(Luks.sectorBytes..<Luks.headerBytes)
        try area.flush()
        try volume.writeHeader(0..<Luks.sectorBytes)
        try area.flush()
        return (volume, key)
    }

    // MARK: Slots

    /// Writes new key material for an inactive slot, and returns its new entry.
    func fill(
        slot index: Int, _ key: KeyMaterial, _ passphrase: KeyMaterial, _ milliseconds: Int
    ) throws(BlockError) -> LuksSlot {
        var slot = header.slots[index]
        slot.salt = try LibCrypto.randomBytes(Luks.saltBytes)
        slot.iterations = try KeyStretching.iterations(
            header.hash, keyBytes: header.keyBytes, milliseconds: milliseconds,
            maximum: try header.maximumIterations)
        slot.isActive = true
        let cipher = try slotCipher(slot, passphrase)
        let stripes = try AntiForensic.split(key, hash: header.hash)
        let size = Luks.materialBytes(keyBytes: header.keyBytes)
        let padded = KeyMaterial(count: size) { bytes in bytes.copy(from: stripes.bytes) }
        let buffer = AlignedBuffer(count: size)
        var encrypted = buffer.mutableBytes
        try cipher.encrypt(padded.bytes, into: &encrypted, firstSector: 0)
        try area.write(buffer.bytes, at: slot.materialOffset)
        return slot
    }

    /// Writes a part of the header, without making it durable.
    func writeHeader(_ range: Range<Int> = 0..<Luks.headerBytes) throws(BlockError) {
        let bytes = header.bytes()
        try area.write(bytes.span.bytes.extracting(range), at: range.lowerBound)
    }
}
