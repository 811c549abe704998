import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the LUKS driver promises, over ciphers, modes, vectors and hashes.
@Suite struct LuksTests {
    static let secrets = SecretSource(["s0": KeyMaterial("hunter2"), "bad": KeyMaterial("hunter3")])

    static func configuration(size: Int = 300 << 10, _ more: [(String, String)] = []) -> FormatConfiguration {
        var open = OptionTree()
        open["key-secret"] = "s0"
        let options = [("key-secret", "s0"), ("iter-time", "0")] + more
        var configuration = FormatConfiguration(
            LuksDriver.self, options: options.map { (name: $0.0, value: $0.1) }, virtualSize: size,
            openOptions: open)
        configuration.secrets = secrets
        return configuration
    }

    static let matrix: [FormatConfiguration] = {
        var all: [FormatConfiguration] = []
        let hashes = ["sha1", "sha224", "sha256", "sha384", "sha512"]
        for cipher in ["aes-128", "aes-192", "aes-256"] {
            for mode in ["xts", "cbc"] {
                for vectors in ["plain", "plain64", "essiv"] {
                    all.append(
                        configuration(
                            size: 100 << 10,
                            [
                                ("cipher-alg", cipher), ("cipher-mode", mode), ("ivgen-alg", vectors),
                                ("hash-alg", hashes[all.count % hashes.count]),
                            ]))
                }
            }
        }
        return all
    }()

    @Test(.timeLimit(.minutes(2)), arguments: matrix)
    func randomOperations(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.edges, .random])
    }

    @Test(.timeLimit(.minutes(5)), arguments: ConformancePhase.allCases)
    func conformance(_ phase: ConformancePhase) throws {
        try checkFormatDriver([Self.configuration()], phases: [phase])
    }

    private func opener(_ store: TestStore) -> ImageOpener {
        ImageOpener(registry: store.registry([LuksDriver.self, RawDriver.self]), secrets: Self.secrets)
    }

    private func create(_ store: TestStore, _ more: [(String, String)] = []) throws {
        try Self.configuration(more).createImage(in: store)
    }

    /// A sector that the file ends in is there, with zeroes behind; QEMU makes such files.
    @Test func theLastSectorMayBeShort() throws {
        let store = TestStore()
        let configuration = Self.configuration(size: 1536)
        try configuration.createImage(in: store)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try node.write([UInt8](repeating: 5, count: 1536).span.bytes, at: 0)
        try node.close()
        var disk = try #require(store["disk"])
        disk.resize(to: disk.count - 25)
        store["disk"] = disk
        let again = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        #expect(try again.length() == 1536)
        // Blocks of a cipher go as a whole; what lies before the cut reads as it was.
        #expect(try again.readBytes(at: 0, count: 1484) == [UInt8](repeating: 5, count: 1484))
        try again.write([UInt8](repeating: 6, count: 512).span.bytes, at: 1024)
        #expect(try again.readBytes(at: 1024, count: 512) == [UInt8](repeating: 6, count: 512))
        try again.close()
        #expect(store["disk"]?.count == disk.count + 25)
    }

    /// QEMU opens nothing with a passphrase that is no text, so no image is made with one.
    @Test(arguments: [
        [0xff, 0xfe], [0x61, 0, 0x62], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80],
    ])
    func aPassphraseIsText(_ bytes: [UInt8]) throws {
        var configuration = Self.configuration()
        configuration.secrets = SecretSource(["s0": KeyMaterial(bytes.span.bytes)])
        let error = #expect(throws: BlockError.self) { try configuration.createImage(in: TestStore()) }
        #expect(error?.message == "Data from secret s0 is not valid UTF-8")
        configuration.secrets = SecretSource(["s0": KeyMaterial("pässwörd €😀")])
        try configuration.createImage(in: TestStore())
    }

    private func error(_ store: TestStore, _ options: [String: String]) -> BlockError? {
        var tree = OptionTree()
        for (key, value) in options { tree[key] = value }
        do throws(BlockError) { try opener(store).open("disk", format: "luks", options: tree).close() } catch
        {
            return error
        }
        return nil
    }

    @Test func tellsWhatIsMissing() throws {
        let store = TestStore()
        try create(store)
        #expect(error(store, ["key-secret": "s0"]) == nil)
        #expect(error(store, [:])?.message == "Parameter 'key-secret' is required for cipher")
        #expect(error(store, ["key-secret": "no"])?.message == "No secret with id 'no'")
        let wrong = error(store, ["key-secret": "bad"])
        #expect(wrong?.message == "Invalid password, cannot unlock any keyslot")
        #expect(wrong?.kind == .denied)
    }

    @Test func aDetachedHeader() throws {
        let store = TestStore()
        try create(store, [("detached-header", "on")])
        store["header"] = store["disk"]
        store["disk"] = SparseBytes(count: 70000)
        var options = OptionTree()
        options["key-secret"] = "s0"
        options["header.filename"] = "header"
        let node = try opener(store).open(
            "disk", format: "luks", settings: OpenSettings(readOnly: false), options: options)
        // A part of a sector at the end counts as one, as in QEMU.
        #expect(try node.length() == 70144)
        #expect(node.childRoles == ["file", "header"])
        let data = Pattern.bytes(stamp: 3, at: 0, count: 69632)
        try node.write(data.span.bytes, at: 0)
        #expect(try node.readBytes(at: 0, count: 69632) == data)
        try node.close()
        #expect(store["disk"]?.count == 70000)
        #expect(error(store, ["key-secret": "s0"]) != nil)
        options["header.filename"] = "disk"
        #expect(throws: BlockError.self) { try opener(store).open("disk", format: "luks", options: options) }
    }

    @Test func aCheckNeedsNoKey() throws {
        let store = TestStore()
        try create(store)
        func check() throws -> CheckResult {
            let node = try opener(store).open("disk", format: "luks", settings: OpenSettings(forCheck: true))
            #expect(throws: BlockError.self) { try node.readBytes(at: 0, count: 512) }
            return try #require(node.format as? any Checkable).check(repair: .none) { _ in }
        }
        #expect(try check() == CheckResult())
        var image = try #require(store["disk"])
        image.write([0, 0, 0xDE, 0xAD], at: 208)
        store["disk"] = image
        #expect(try check().corruptions == 1)
    }

    @Test func growsAndShrinks() throws {
        let store = TestStore()
        try create(store)
        let configuration = Self.configuration()
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        let data = Pattern.bytes(stamp: 5, at: 0, count: 4096)
        try node.write(data.span.bytes, at: 8192)
        try node.resize(to: 1 << 20)
        try node.write(data.span.bytes, at: (1 << 20) - 4096)
        #expect(try node.readBytes(at: 8192, count: 4096) == data)
        #expect(try node.readBytes(at: (1 << 20) - 4096, count: 4096) == data)
        try node.resize(to: 12288)
        try node.close()
        let again = try configuration.open(in: store, settings: OpenSettings())
        #expect(try again.length() == 12288)
        #expect(try again.readBytes(at: 8192, count: 4096) == data)
        try again.close()
    }

    /// What is there is no volume yet, or a whole one.
    @Test(.timeLimit(.minutes(2))) func creatingIsAllOrNothing() throws {
        try checkInterruption(
            of: [:], action: { store in try create(store) },
            verify: { store in
                guard store["disk"] != nil, let error = error(store, ["key-secret": "s0"]) else { return }
                guard error.kind == .wrongFormat else { throw error }
            })
    }
}
