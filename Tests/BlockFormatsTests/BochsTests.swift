import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Bochs' growing images: laid out here by their description.
@Suite struct BochsTests {
    static func image(version: UInt32 = 0x20000, extentBytes: Int = 4096, _ catalog: [UInt32]) -> SparseBytes
    {
        var image = ImageBytes(.little)
        for (text, offset) in [("Bochs Virtual HD Image", 0), ("Redolog", 32), ("Growing", 48)] {
            image.put(text, at: offset)
        }
        for (value, offset) in [
            (Int(version), 0x40), (512, 0x44), (catalog.count, 0x48), (8, 0x4C), (extentBytes, 0x50),
        ] {
            image.put(value, at: offset)
        }
        image.put(catalog.count * extentBytes, at: version == 0x20000 ? 0x58 : 0x54, bytes: 8)
        for (index, entry) in catalog.enumerated() { image.put(entry, at: 512 + index * 4) }
        let data = 512 + catalog.count * 4
        for entry in catalog where entry < 100 {
            let start = data + Int(entry) * (512 + extentBytes)
            // Every third sector is not stored.
            for sector in 0..<extentBytes / 512 {
                let stored = sector % 3 != 2
                let byte = image.number(at: start + sector / 8, bytes: 1)
                image.put(stored ? byte | 1 << (sector % 8) : byte, at: start + sector / 8, bytes: 1)
                image.put(
                    Pattern.bytes(stamp: Int(entry), at: sector * 512, count: 512),
                    at: start + 512 + sector * 512)
            }
        }
        return image.file
    }

    static func expected(extentBytes: Int = 4096, _ catalog: [UInt32]) -> [UInt8] {
        catalog.flatMap { entry -> [UInt8] in
            (0..<extentBytes / 512).flatMap { sector -> [UInt8] in
                entry < 100 && sector % 3 != 2
                    ? Pattern.bytes(stamp: Int(entry), at: sector * 512, count: 512)
                    : [UInt8](repeating: 0, count: 512)
            }
        }
    }

    @Test(arguments: [0x10000, 0x20000] as [UInt32]) func reading(version: UInt32) throws {
        let catalog: [UInt32] = [1, .max, 0, 2]
        try checkReadOnlyFormat(
            BochsDriver.self, image: Self.image(version: version, catalog), expected: Self.expected(catalog))
    }

    private func check(_ catalog: [UInt32], cutTo length: Int? = nil) throws -> CheckResult {
        var image = Self.image(catalog)
        if let length { image.resize(to: length) }
        let store = TestStore(["disk": image])
        let node = try ImageOpener(registry: store.registry([BochsDriver.self, RawDriver.self]))
            .open("disk", settings: OpenSettings(forCheck: true))
        return try #require(node.format as? any Checkable).check(repair: .none) { _ in }
    }

    @Test func aCheckFindsWhatIsWrong() throws {
        let sound = try check([1, .max, 0, 2])
        #expect(sound.corruptions == 0 && sound.leaks == 0 && sound.allocatedClusters == 3)
        #expect(sound.imageEndOffset == 528 + 3 * 4608)
        let shared = try check([1, .max, 1, 2])
        #expect(shared.corruptions == 1 && shared.leaks == 1)
        let cut = try check([1, .max, 0, 2], cutTo: 528 + 3 * 4608 - 1)
        #expect(cut.corruptions == 1 && cut.leaks == 0)
    }

    static let hostile = ByteDamage.table(
        ("type", 32, [[0]]),
        ("subtype", 48, [[0]]),
        ("version, high half", 0x42, [[9]]),
        ("header size", 0x44, [[0, 0]]),
        ("header size, high byte", 0x47, [[0x80]]),
        ("number of entries, high byte", 0x4B, [[0x7F]]),
        ("number of entries", 0x48, [[1]]),
        ("bitmap size", 0x4C, [[0]]),
        ("bitmap size, high byte", 0x4F, [[0xFF]]),
        ("extent size", 0x50, [[0, 0], [1]]),
        ("extent size, high byte", 0x53, [[0x80]]),
        ("disk size, high byte", 0x5F, [[0xFF]]),
        ("disk size, second byte", 0x5E, [[1]]))

    @Test(arguments: hostile) func hostileHeadersAreRefused(_ damage: ByteDamage<Void>) throws {
        let store = TestStore(["disk": damage.applied(to: Self.image([0, 1]))])
        let opener = ImageOpener(registry: store.registry([BochsDriver.self]))
        #expect(throws: BlockError.self) { try opener.open("disk", format: "bochs") }
    }

    /// An entry far beyond the file: the file was cut, or the entry is damaged.
    @Test func entriesBeyondTheFile() throws {
        let store = TestStore(["disk": Self.image([0, 0xFFFF_FFFE])])
        let node = try ImageOpener(registry: store.registry([BochsDriver.self])).open("disk")
        let error = #expect(throws: BlockError.self) { try node.readBytes(at: 4096, count: 4096) }
        #expect(error?.kind == .corrupt && error?.message.contains("bytes are missing") == true)
    }
}
