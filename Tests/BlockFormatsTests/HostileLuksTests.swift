import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// LUKS headers that a stranger made up: refused by name, quickly, and without a trap.
@Suite struct HostileLuksTests {
    private static let template: SparseBytes = {
        let store = TestStore()
        try? LuksTests.configuration(size: 4096).createImage(in: store)
        return store["disk"] ?? SparseBytes()
    }()

    private func open(_ change: (inout SparseBytes) -> Void, metadataOnly: Bool = false) -> BlockError? {
        var bytes = Self.template
        change(&bytes)
        let store = TestStore(["disk": bytes])
        do throws(BlockError) {
            let settings = OpenSettings(metadataOnly: metadataOnly)
            let node = try LuksTests.configuration(size: 4096).open(in: store, settings: settings)
            _ = try node.format?.describe()
            if !metadataOnly, try node.length() >= 512 { _ = try node.readBytes(at: 0, count: 512) }
            try node.close()
        } catch { return error }
        return nil
    }

    private static func big(_ value: UInt32) -> [UInt8] { ImageBytes.big(value) }

    struct Damage: Sendable, CustomTestStringConvertible {
        var what: String
        var offset: Int
        var bytes: [UInt8]
        var kind: BlockError.Kind
        var testDescription: String { what }
    }

    static let damages: [Damage] = [
        Damage(what: "magic", offset: 0, bytes: [0], kind: .wrongFormat),
        Damage(what: "version 2", offset: 6, bytes: [0, 2], kind: .unsupported),
        Damage(what: "version 0", offset: 6, bytes: [0, 0], kind: .unsupported),
        Damage(what: "cipher", offset: 8, bytes: Array("twofish".utf8), kind: .unsupported),
        Damage(what: "no cipher", offset: 8, bytes: [0], kind: .unsupported),
        Damage(
            what: "a cipher without an end", offset: 8, bytes: [UInt8](repeating: 0x61, count: 64),
            kind: .unsupported),
        Damage(what: "mode", offset: 40, bytes: Array("ctr".utf8), kind: .unsupported),
        Damage(what: "vectors", offset: 40, bytes: Array("xts-random".utf8), kind: .unsupported),
        Damage(
            what: "essiv without hash", offset: 40, bytes: Array("xts-essiv".utf8) + [0, 0],
            kind: .unsupported),
        Damage(
            what: "essiv with a long hash", offset: 40, bytes: Array("xts-essiv:sha512\0".utf8),
            kind: .unsupported),
        Damage(what: "text that is none", offset: 40, bytes: [0xFF, 0x1B, 0x5B], kind: .unsupported),
        Damage(what: "hash", offset: 72, bytes: Array("md4\0".utf8), kind: .unsupported),
        Damage(what: "payload in the key material", offset: 104, bytes: big(100), kind: .corrupt),
        Damage(what: "payload past the end", offset: 104, bytes: big(.max), kind: .corrupt),
        Damage(what: "key of no bytes", offset: 108, bytes: big(0), kind: .unsupported),
        Damage(what: "key too long", offset: 108, bytes: big(.max), kind: .unsupported),
        Damage(what: "digest iterations 0", offset: 164, bytes: big(0), kind: .corrupt),
        Damage(what: "digest iterations", offset: 164, bytes: big(.max), kind: .limit),
        Damage(what: "slot state", offset: 208, bytes: big(1), kind: .corrupt),
        Damage(what: "slot iterations 0", offset: 212, bytes: big(0), kind: .corrupt),
        Damage(what: "slot iterations", offset: 212, bytes: big(.max), kind: .limit),
        Damage(what: "many slot iterations", offset: 212, bytes: big(1 << 28), kind: .limit),
        Damage(what: "material over the header", offset: 248, bytes: big(0), kind: .corrupt),
        Damage(what: "material past the end", offset: 248, bytes: big(.max), kind: .corrupt),
        Damage(what: "material over another slot's", offset: 248, bytes: big(600), kind: .corrupt),
        Damage(what: "stripes", offset: 252, bytes: big(1), kind: .corrupt),
        Damage(what: "stripes 0", offset: 252, bytes: big(0), kind: .corrupt),
    ]

    @Test(.timeLimit(.minutes(1)), arguments: damages)
    func isRefused(_ damage: Damage) {
        for metadataOnly in [false, true] {
            let error = open({ $0.write(damage.bytes, at: damage.offset) }, metadataOnly: metadataOnly)
            #expect(error?.kind == damage.kind, "\(error?.message ?? "opened")")
            #expect(error?.message.unicodeScalars.allSatisfy { $0.value >= 32 } != false)
        }
    }

    @Test(.timeLimit(.minutes(1)))
    func cutShort() {
        for length in [0, 5, 8, 100, 511, 591, 592, 4096, 300_000, Self.template.count - 4097] {
            #expect(open { $0.resize(to: length) } != nil, "\(length)")
        }
    }

    /// Whatever the bytes are, there is an answer.
    @Test(.timeLimit(.minutes(2)))
    func anything() {
        var random = SeededRandom(seed: TestEffort.seed)
        for _ in 0..<TestEffort.scaled(300) {
            _ = open(
                { bytes in
                    for _ in 0...random.number(in: 0..<3) {
                        bytes.write([UInt8(random.number(in: 0..<256))], at: random.number(in: 6..<592))
                    }
                }, metadataOnly: true)
        }
    }
}
