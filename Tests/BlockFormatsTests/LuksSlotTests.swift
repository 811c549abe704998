import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Changing key slots: what is refused, what is done, and what an interruption leaves.
@Suite struct LuksSlotTests {
    private static let secrets = SecretSource([
        "s0": KeyMaterial("hunter2"), "new": KeyMaterial("new"), "other": KeyMaterial("other"),
    ])

    private static func configuration() -> FormatConfiguration {
        var configuration = LuksTests.configuration(size: 4096, [("cipher-alg", "aes-128")])
        configuration.secrets = secrets
        return configuration
    }

    private static func open(_ store: TestStore, _ secret: String) throws(BlockError) -> BlockNode {
        var configuration = configuration()
        configuration.openOptions["key-secret"] = secret
        return try configuration.open(in: store, settings: OpenSettings(readOnly: false))
    }

    private static func opens(_ store: TestStore, _ secret: String) throws -> Bool {
        do throws(BlockError) {
            let node = try open(store, secret)
            defer { try? node.close() }
            guard try node.readBytes(at: 0, count: 4096) == data else {
                throw BlockError(.corrupt, "other data")
            }
        } catch {
            guard error.kind == .denied else { throw error }
            return false
        }
        return true
    }

    private static let data = Pattern.bytes(stamp: 4, at: 0, count: 4096)

    private static func made() throws -> TestStore {
        let store = TestStore()
        try configuration().createImage(in: store)
        let node = try open(store, "s0")
        try node.write(data.span.bytes, at: 0)
        try node.close()
        return store
    }

    private static func amend(
        _ store: TestStore, _ values: [String: String], by secret: String = "s0", force: Bool = false
    ) throws {
        var options = CreateOptions(LuksDriver.amendOptions)
        for (key, value) in values { try options.set(name: key, to: value) }
        if values["state"] == "active" { try options.set(.iterTime, to: "0") }
        let node = try open(store, secret)
        defer { try? node.close() }
        try node.amend(Amendment(options, force: force, secrets: secrets))
    }

    private static func refusal(
        _ store: TestStore, _ values: [String: String], force: Bool = false
    ) -> String? {
        let before = store["disk"]
        do { try amend(store, values, force: force) } catch {
            #expect(store["disk"] == before, "a refusal changes nothing")
            return (error as? BlockError)?.message
        }
        return nil
    }

    private static func active(_ store: TestStore) throws -> [Int] {
        let bytes = store["disk"]?.read(at: 0, count: 592) ?? []
        return (0..<8).filter { bytes[208 + $0 * 48..<212 + $0 * 48].elementsEqual([0, 0xAC, 0x71, 0xF3]) }
    }

    @Test func addsReplacesAndErases() throws {
        let store = try Self.made()
        try Self.amend(store, ["state": "active", "new-secret": "new"])
        #expect(try Self.active(store) == [0, 1])
        try Self.amend(store, ["state": "active", "new-secret": "other", "keyslot": "7"], by: "new")
        #expect(try Self.active(store) == [0, 1, 7])
        for secret in ["s0", "new", "other"] { #expect(try Self.opens(store, secret)) }
        try Self.amend(store, ["state": "inactive", "old-secret": "s0"])
        #expect(try Self.active(store) == [1, 7])
        #expect(try !Self.opens(store, "s0"))
        try Self.amend(store, ["state": "inactive", "keyslot": "7", "old-secret": "other"], by: "new")
        #expect(try Self.active(store) == [1])
        try Self.amend(
            store, ["state": "active", "new-secret": "other", "keyslot": "1"], by: "new", force: true)
        #expect(try Self.active(store) == [1])
        #expect(try Self.opens(store, "other") && !Self.opens(store, "new"))
        try Self.amend(store, ["state": "inactive", "keyslot": "1"], by: "other", force: true)
        #expect(try Self.active(store) == [])
        #expect(try !Self.opens(store, "other"))
    }

    /// What was there of a slot's key is gone.
    @Test func erasingOverwrites() throws {
        let store = try Self.made()
        try Self.amend(store, ["state": "active", "new-secret": "new"])
        let before = try #require(store["disk"])
        try Self.amend(store, ["state": "inactive", "keyslot": "1"])
        let after = try #require(store["disk"])
        #expect(after.read(at: 256, count: 40) == [0, 0, 0xDE, 0xAD] + [UInt8](repeating: 0, count: 36))
        let offset = 4096 + 131072
        for start in stride(from: offset, to: offset + 128_000, by: 512) {
            #expect(before.read(at: start, count: 512) != after.read(at: start, count: 512), "\(start)")
        }
    }

    @Test func refusals() throws {
        let store = try Self.made()
        #expect(Self.refusal(store, ["state": "foo"]) == "Parameter 'state' does not accept value 'foo'")
        #expect(Self.refusal(store, ["new-secret": "new"]) == "Parameter 'state' is missing")
        #expect(Self.refusal(store, ["state": "active"]) == "'new-secret' is required to activate a keyslot")
        #expect(Self.refusal(store, ["state": "active", "new-secret": "no"]) == "No secret with id 'no'")
        #expect(
            Self.refusal(store, ["state": "active", "new-secret": "new", "keyslot": "0"])
                == "Refusing to overwrite active keyslot 0 - please erase it first")
        #expect(
            Self.refusal(store, ["state": "active", "new-secret": "new", "keyslot": "9"])
                == "Invalid keyslot 9 specified, must be between 0 and 7")
        #expect(
            Self.refusal(store, ["state": "active", "new-secret": "new", "old-secret": "s0"])
                == "'old-secret' must not be given when activating keyslots")
        #expect(
            Self.refusal(store, ["state": "inactive"])?.hasPrefix("To erase keyslot(s), either explicit")
                == true)
        #expect(
            Self.refusal(store, ["state": "inactive", "keyslot": "5"])
                == "Given keyslot 5 is already erased (inactive)")
        #expect(Self.refusal(store, ["state": "inactive", "keyslot": "5"], force: true) == nil)
        #expect(
            Self.refusal(store, ["state": "inactive", "old-secret": "new"])
                == "No keyslots match given (old) password for erase operation")
        #expect(
            Self.refusal(store, ["state": "inactive", "old-secret": "new", "keyslot": "0"])
                == "Given keyslot 0 doesn't contain the given old password for erase operation")
        #expect(
            Self.refusal(store, ["state": "inactive", "keyslot": "0", "iter-time": "10"])
                == "'iter-time' must not be given when erasing keyslots")
        #expect(
            Self.refusal(store, ["state": "inactive", "keyslot": "0", "new-secret": "new"])
                == "'new-secret' must not be given when erasing keyslots")
        #expect(
            Self.refusal(store, ["state": "inactive", "keyslot": "0"])?
                .hasPrefix("Attempt to erase the only active keyslot 0 which") == true)
        #expect(
            Self.refusal(store, ["state": "inactive", "old-secret": "s0"])?
                .hasPrefix("All the active keyslots match the (old) password") == true)
        for _ in 1..<8 { try Self.amend(store, ["state": "active", "new-secret": "new"]) }
        #expect(
            Self.refusal(store, ["state": "active", "new-secret": "new"])
                == "Can't add a keyslot - all keyslots are in use")
    }

    /// A change of slots, and which of the passphrases must open whatever is left of it.
    struct Change: Sendable, CustomTestStringConvertible {
        var values: [String: String]
        var force = false
        /// The others open all the time.
        var opensAtLeastOneOf: [String]
        var testDescription: String { "\(values.sorted { $0.key < $1.key })" }
    }

    static let changes = [
        Change(
            values: ["state": "active", "new-secret": "other", "keyslot": "6"], opensAtLeastOneOf: ["s0"]),
        Change(
            values: ["state": "active", "new-secret": "other", "keyslot": "7"], opensAtLeastOneOf: ["s0"]),
        Change(
            values: ["state": "active", "new-secret": "other", "keyslot": "0"], force: true,
            opensAtLeastOneOf: ["s0", "other"]),
    ]

    @Test(.timeLimit(.minutes(5)), arguments: changes)
    func interrupted(_ change: Change) throws {
        try Self.check(try Self.made(), change)
    }

    @Test(.timeLimit(.minutes(5)))
    func interruptedErasing() throws {
        let store = try Self.made()
        try Self.amend(store, ["state": "active", "new-secret": "new", "keyslot": "6"])
        try Self.check(
            store, Change(values: ["state": "inactive", "keyslot": "6"], opensAtLeastOneOf: ["s0"]))
        try Self.check(
            store, Change(values: ["state": "inactive", "old-secret": "s0"], opensAtLeastOneOf: ["new"]))
    }

    /// Whoever changes the passphrase of one slot of several has the old one or the new one.
    @Test(.timeLimit(.minutes(5)))
    func interruptedReplacing() throws {
        let store = try Self.made()
        try Self.amend(store, ["state": "active", "new-secret": "new", "keyslot": "1"])
        let values = ["state": "active", "new-secret": "other", "keyslot": "1"]
        try Self.check(
            store, Change(values: values, force: true, opensAtLeastOneOf: ["new", "other"]), by: "new")
        try Self.amend(store, values, by: "new", force: true)
        #expect(try Self.active(store) == [0, 1])
        #expect(try Self.opens(store, "other") && !Self.opens(store, "new"))
    }

    private static func check(_ store: TestStore, _ change: Change, by secret: String = "s0") throws {
        try checkInterruption(
            of: store.files,
            action: { store in try amend(store, change.values, by: secret, force: change.force) },
            verify: { store in
                let opening = try change.opensAtLeastOneOf.filter { try opens(store, $0) }
                guard !opening.isEmpty else { throw Mismatch("no passphrase opens the volume") }
            })
    }
}
