import BlockCore

/// Encrypts and decrypts runs of 512-byte sectors, each with an initialisation vector from its number.
///
/// Thread-safe: threads work concurrently, each with contexts of its own. The key is wiped with this object.
final class SectorCipher: Sendable {
    static let sectorBytes = 512
    /// The number of sectors whose vectors are computed together.
    private static let batch = 256

    let suite: CipherSuite
    let key: KeyMaterial
    private let encryptor: any SectorContexts
    private let decryptor: any SectorContexts
    /// Encrypts sector numbers; only for the ESSIV generator.
    private let essiv: CipherContexts?

    /// - Throws: `unsupported` for a suite that contradicts itself; `invalidArgument` for a key of another
    ///   length.
    init(_ suite: CipherSuite, key: KeyMaterial) throws(BlockError) {
        guard key.count == suite.keyBytes else {
            throw BlockError(
                .invalidArgument,
                "\(key.count) bytes are no key of \(suite.algorithm.rawValue) in this mode")
        }
        self.suite = suite
        self.key = key
        encryptor = try Self.contexts(suite, key, encrypts: true)
        decryptor = try Self.contexts(suite, key, encrypts: false)
        essiv = try Self.essiv(suite, key)
    }

    private static func contexts(
        _ suite: CipherSuite, _ key: KeyMaterial, encrypts: Bool
    ) throws(BlockError) -> any SectorContexts {
        if suite.mode == .xts, suite.algorithm == .aes192 {
            return try GenericXTS(suite.algorithm, key: key, encrypts: encrypts)
        }
        return try CipherContexts(
            suite.algorithm, suite.mode == .xts ? .xts : .cbc, key: key, encrypts: encrypts)
    }

    private static func essiv(_ suite: CipherSuite, _ key: KeyMaterial) throws(BlockError) -> CipherContexts?
    {
        guard let hash = suite.ivGenerator.hash, let algorithm = try suite.essivAlgorithm else { return nil }
        let salt = try KeyMaterial(count: hash.digestBytes) { digest throws(BlockError) in
            try LibCrypto.hash(hash, key.bytes, RawSpan(), into: &digest)
        }
        return try CipherContexts(algorithm, .ecb, key: salt, encrypts: true)
    }

    /// Encrypts whole sectors from `plain` into `target`, which must have the same length.
    func encrypt(_ plain: RawSpan, into target: inout MutableRawSpan, firstSector: Int) throws(BlockError) {
        let count = plain.byteCount
        let step = Self.batch * Self.sectorBytes
        var vectors = [UInt8](repeating: 0, count: Self.vectorBytes(for: count))
        var offset = 0
        while offset < count {
            let range = offset..<min(offset + step, count)
            try fill(&vectors, firstSector + offset / Self.sectorBytes, count: range.count / Self.sectorBytes)
            var part = target.slice(range)
            try encryptor.process(plain.extracting(range), into: &part, vectors: vectors.span.bytes)
            offset = range.upperBound
        }
    }

    /// Decrypts whole sectors in place.
    func decrypt(_ bytes: inout MutableRawSpan, firstSector: Int) throws(BlockError) {
        let count = bytes.byteCount
        let step = Self.batch * Self.sectorBytes
        var vectors = [UInt8](repeating: 0, count: Self.vectorBytes(for: count))
        var offset = 0
        while offset < count {
            let range = offset..<min(offset + step, count)
            try fill(&vectors, firstSector + offset / Self.sectorBytes, count: range.count / Self.sectorBytes)
            var part = bytes.slice(range)
            try decryptor.process(&part, vectors: vectors.span.bytes)
            offset = range.upperBound
        }
    }

    private static func vectorBytes(for count: Int) -> Int {
        min(batch, count / sectorBytes) * CipherContexts.blockBytes
    }

    /// The vectors of `count` sectors from `first` on.
    private func fill(_ vectors: inout [UInt8], _ first: Int, count: Int) throws(BlockError) {
        var elements = vectors.mutableSpan
        var span = elements.mutableBytes
        let mask: UInt64 = suite.ivGenerator == .plain ? 0xFFFF_FFFF : .max
        for index in 0..<count {
            let number = UInt64(truncatingIfNeeded: first &+ index) & mask
            span.storeLittleEndian(number, at: index &* CipherContexts.blockBytes)
            span.storeLittleEndian(UInt64(0), at: index &* CipherContexts.blockBytes &+ 8)
        }
        guard let essiv else { return }
        var used = span.slice(0..<count * CipherContexts.blockBytes)
        let length = used.byteCount
        try essiv.process(&used, vectors: RawSpan(), sectorBytes: length)
    }
}

/// One direction of a cipher over sectors.
protocol SectorContexts: Sendable {
    /// Processes whole sectors of `source`, each with its 16 bytes of `vectors`.
    func process(_ source: RawSpan, into target: inout MutableRawSpan, vectors: RawSpan) throws(BlockError)
    /// As above, in place.
    func process(_ bytes: inout MutableRawSpan, vectors: RawSpan) throws(BlockError)
}

extension CipherContexts: SectorContexts {
    func process(_ source: RawSpan, into target: inout MutableRawSpan, vectors: RawSpan) throws(BlockError) {
        try process(source, into: &target, vectors: vectors, sectorBytes: SectorCipher.sectorBytes)
    }

    func process(_ bytes: inout MutableRawSpan, vectors: RawSpan) throws(BlockError) {
        try process(&bytes, vectors: vectors, sectorBytes: SectorCipher.sectorBytes)
    }
}
