import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Encrypted qcow2 images: what the driver promises, over both ways of encrypting.
@Suite struct Qcow2EncryptionTests {
    /// The same image, encrypted.
    static func encrypted(
        _ configuration: FormatConfiguration, _ format: String, _ more: [(String, String)] = []
    ) -> FormatConfiguration {
        var configuration = configuration
        var options = [("encrypt.format", format), ("encrypt.key-secret", "s0")] + more
        if format == "luks" { options += [("encrypt.iter-time", "0"), ("encrypt.cipher-alg", "aes-128")] }
        configuration.options += options.map { (name: $0.0, value: $0.1) }
        configuration.openOptions["encrypt.key-secret"] = "s0"
        configuration.secrets = LuksTests.secrets
        configuration.compresses = false
        return configuration
    }

    private static func plain(
        _ cluster: Int, compat: String = "1.1", backing: Bool = false, _ more: [(String, String)] = []
    ) -> FormatConfiguration {
        Qcow2ConformanceTests.configuration(cluster: cluster, compat: compat, backing: backing, more: more)
    }

    static let kinds: [FormatConfiguration] = [
        encrypted(plain(65536, backing: true), "luks"),
        encrypted(plain(512), "aes"),
        encrypted(plain(4096, compat: "0.10", backing: true), "aes"),
        encrypted(plain(4096, [("preallocation", "metadata")]), "luks"),
        encrypted(plain(4096, compat: "0.10", [("preallocation", "metadata")]), "aes"),
        encrypted(plain(4096, backing: true, [("lazy_refcounts", "on")]), "luks"),
    ]

    static let dataFiles: [FormatConfiguration] = ["luks", "aes"].map { format in
        var configuration = encrypted(plain(4096, [("data_file", "data")]), format)
        configuration.keepsSnapshots = false
        return configuration
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds + dataFiles)
    func randomOperations(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.edges, .random])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds + dataFiles)
    func concurrency(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.concurrency])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds + dataFiles)
    func crashes(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.crash], operations: 25)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds + dataFiles)
    func failedCalls(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.faults, .life], operations: 25)
    }

    private func open(
        _ configuration: FormatConfiguration, _ store: TestStore, _ options: [String: String],
        _ settings: OpenSettings = OpenSettings()
    ) throws(BlockError) -> BlockNode {
        var configuration = configuration
        configuration.openOptions = OptionTree()
        for (key, value) in options { configuration.openOptions[key] = value }
        return try configuration.open(in: store, settings: settings)
    }

    private func error(
        _ configuration: FormatConfiguration, _ store: TestStore, _ options: [String: String]
    ) -> String? {
        do throws(BlockError) { try open(configuration, store, options).close() } catch {
            return error.message
        }
        return nil
    }

    @Test(arguments: ["luks", "aes"])
    func tellsWhatIsWrong(_ format: String) throws {
        let store = TestStore()
        let configuration = Self.encrypted(Self.plain(65536), format)
        try configuration.createImage(in: store)
        #expect(error(configuration, store, ["encrypt.key-secret": "s0"]) == nil)
        #expect(error(configuration, store, ["encrypt.key-secret": "s0", "encrypt.format": format]) == nil)
        #expect(
            error(configuration, store, [:]) == "Parameter 'encrypt.key-secret' is required for cipher")
        #expect(error(configuration, store, ["encrypt.key-secret": "no"]) == "No secret with id 'no'")
        #expect(error(configuration, store, ["encrypt.foo": "x"]) == "Parameter 'foo' is unexpected")
        let other = format == "luks" ? "aes" : "luks"
        #expect(
            error(configuration, store, ["encrypt.key-secret": "s0", "encrypt.format": other])
                == "Header reported '\(format)' encryption format but options specify '\(other)'")
        if format == "luks" {
            #expect(
                error(configuration, store, ["encrypt.key-secret": "bad"])
                    == "Invalid password, cannot unlock any keyslot")
        }
    }

    @Test func aPlainImageTakesNoFormat() throws {
        let store = TestStore()
        try Self.plain(65536).createImage(in: store)
        #expect(
            error(Self.plain(65536), store, ["encrypt.format": "luks"])
                == "No encryption in image header, but options specified format 'luks'")
    }

    /// No byte of the guest's stands in the files.
    @Test(arguments: kinds + dataFiles)
    func nothingIsPlain(_ configuration: FormatConfiguration) throws {
        let store = TestStore()
        _ = try configuration.create(in: store)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        let marker = Array("PLAINTEXTMARKER!".utf8)
        let bytes = (0..<512).flatMap { _ in marker }
        try node.write(bytes.span.bytes, at: 4096)
        try node.write(marker.span.bytes, at: 3)
        if configuration.keepsSnapshots { try node.createSnapshot(SnapshotInfo(id: "", name: "one")) }
        try node.write(marker.span.bytes, at: 10003)
        try node.close()
        for (name, contents) in store.files {
            contents.eachStoredChunk { offset, bytes in
                for start in bytes.indices where bytes[start...].starts(with: marker) {
                    Issue.record("\(name) holds the guest's bytes at \(offset + start - bytes.startIndex)")
                }
            }
        }
    }

    /// Without its key, an image tells of itself and nothing more.
    @Test(arguments: ["luks", "aes"])
    func withoutKeys(_ format: String) throws {
        let store = TestStore()
        let configuration = Self.encrypted(Self.plain(65536), format)
        _ = try configuration.create(in: store)
        let writer = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
        try writer.write([UInt8](repeating: 9, count: 512).span.bytes, at: 0)
        try writer.close()
        let node = try open(configuration, store, [:], OpenSettings(metadataOnly: true))
        #expect(try node.format?.describe().isEncrypted == true)
        #expect(try node.layerExtent(at: 0, limit: 512).status == .encoded(compressed: false))
        let refusal = blockError { () throws(BlockError) in try node.readBytes(at: 0, count: 512) }
        #expect(refusal?.kind == .denied)
        try node.close()
    }

    /// Killed or failing anywhere, a change of slots leaves an image that some passphrase opens.
    @Test(.timeLimit(.minutes(5)), arguments: [("new", false), ("only", true)])
    func changesSlots(_ slot: String, _ force: Bool) throws {
        let store = TestStore()
        let configuration = Self.encrypted(Self.plain(65536), "luks")
        _ = try configuration.create(in: store)
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try configuration.open(in: store, settings: OpenSettings(readOnly: false))
                defer { try? node.close() }
                var options = CreateOptions(Qcow2Driver.amendOptions)
                try options.set(.encryptState, to: "active")
                try options.set(.encryptNewSecret, to: "bad")
                try options.set(.encryptIterTime, to: "0")
                if force { try options.set(.encryptKeyslot, to: "0") }
                try node.amend(Amendment(options, force: force, secrets: LuksTests.secrets))
            },
            verify: { store in
                let opening = ["s0", "bad"].filter {
                    error(configuration, store, ["encrypt.key-secret": $0]) == nil
                }
                if opening.isEmpty || (!force && !opening.contains("s0")) {
                    throw Mismatch("\(opening) open")
                }
            })
    }
}
