import BlockCore

/// A change of a volume's key slots by `amend`.
struct LuksSlotChange: Sendable {
    /// The changes of slots.
    enum Action: Sendable {
        /// Fill a slot with a passphrase.
        case fill(Int, KeyMaterial, milliseconds: Int)
        case erase([Int])
    }

    private enum State: String {
        case active
        case inactive
    }

    /// The names of the options: plain for `luks`, with the prefix `encrypt.` for `qcow2`.
    struct Keys: Sendable {
        var state: CreateOptionKey
        var newSecret: CreateOptionKey
        var oldSecret: CreateOptionKey
        var slot: CreateOptionKey
        var time: CreateOptionKey

        static let plain = Keys(
            state: .state, newSecret: .newSecret, oldSecret: .oldSecret, slot: .keyslot, time: .iterTime)
        static let nested = Keys(
            state: .encryptState, newSecret: .encryptNewSecret, oldSecret: .encryptOldSecret,
            slot: .encryptKeyslot, time: .encryptIterTime)

        /// The declared options of `amend`.
        var declared: [CreateOption] {
            [
                CreateOption(time, .number, help: "Time for deriving a slot's key, in milliseconds"),
                CreateOption(slot, .number, help: "The key slot to change: 0 to 7"),
                CreateOption(newSecret, .string, help: "ID of the passphrase for a slot that is filled"),
                CreateOption(oldSecret, .string, help: "ID of the passphrase whose slots are erased"),
                CreateOption(state, .string, help: "active fills a key slot, inactive erases"),
            ]
        }
    }

    private let state: State
    private let newSecret: KeyMaterial?
    private let oldSecret: KeyMaterial?
    private let slot: Int?
    private let milliseconds: Int?
    private let force: Bool

    /// - Throws: `invalidArgument` for options that contradict each other; `notFound` for a secret.
    init(_ amendment: Amendment, _ keys: Keys) throws(BlockError) {
        let options = amendment.options
        guard let text = options[keys.state] else { throw Self.refusal("Parameter 'state' is missing") }
        guard let state = State(rawValue: text) else {
            throw Self.refusal("Parameter 'state' does not accept value '\(text)'")
        }
        self.state = state
        force = amendment.force
        slot = options.integer(keys.slot)
        milliseconds = options.integer(keys.time)
        switch state {
        case .active:
            guard options[keys.newSecret] != nil else {
                throw Self.refusal("'new-secret' is required to activate a keyslot")
            }
            guard options[keys.oldSecret] == nil else {
                throw Self.refusal("'old-secret' must not be given when activating keyslots")
            }
        case .inactive:
            guard options[keys.newSecret] == nil else {
                throw Self.refusal("'new-secret' must not be given when erasing keyslots")
            }
            guard milliseconds == nil else {
                throw Self.refusal("'iter-time' must not be given when erasing keyslots")
            }
        }
        if let slot, !(0..<Luks.slotCount).contains(slot) {
            throw Self.refusal(
                "Invalid keyslot \(slot) specified, must be between 0 and \(Luks.slotCount - 1)")
        }
        newSecret = try Self.passphrase(options[keys.newSecret], amendment)
        oldSecret = try Self.secret(options[keys.oldSecret], amendment)
    }

    private static func secret(_ id: String?, _ amendment: Amendment) throws(BlockError) -> KeyMaterial? {
        guard let id else { return nil }
        return try amendment.secrets.secret(id)
    }

    private static func passphrase(_ id: String?, _ amendment: Amendment) throws(BlockError) -> KeyMaterial? {
        guard let id else { return nil }
        return try amendment.secrets.passphrase(id)
    }

    private static func refusal(_ message: String) -> BlockError { BlockError(.invalidArgument, message) }

    /// The action for the volume's present slots.
    ///
    /// - Throws: `invalidArgument` for a change that would lose the data, unless it is forced; `io`.
    func action(on volume: LuksVolume) throws(BlockError) -> Action {
        switch state {
        case .active: try filling(volume)
        case .inactive: .erase(try erased(volume))
        }
    }

    private func filling(_ volume: LuksVolume) throws(BlockError) -> Action {
        guard let newSecret else { throw Self.refusal("'new-secret' is required to activate a keyslot") }
        let slots = volume.header.slots
        if let slot, slots[slot].isActive, !force {
            throw Self.refusal("Refusing to overwrite active keyslot \(slot) - please erase it first")
        }
        guard let index = slot ?? slots.firstIndex(where: { !$0.isActive }) else {
            throw Self.refusal("Can't add a keyslot - all keyslots are in use")
        }
        return .fill(index, newSecret, milliseconds: milliseconds ?? LuksPlan.defaultMilliseconds)
    }

    private func erased(_ volume: LuksVolume) throws(BlockError) -> [Int] {
        let active = volume.header.activeSlots
        if let slot {
            guard active.contains(slot) else {
                if force { return [] }
                throw Self.refusal("Given keyslot \(slot) is already erased (inactive)")
            }
            if let oldSecret, try volume.unlock(slot: slot, oldSecret) == nil {
                throw Self.refusal(
                    "Given keyslot \(slot) doesn't contain the given old password for erase operation")
            }
            guard active.count > 1 || force else {
                throw Self.refusal(
                    "Attempt to erase the only active keyslot \(slot) which will erase all the data in the "
                        + "image irreversibly - refusing operation")
            }
            return [slot]
        }
        guard let oldSecret else {
            throw Self.refusal(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in "
                    + "them must be given")
        }
        var matching: [Int] = []
        for index in active where try volume.unlock(slot: index, oldSecret) != nil { matching.append(index) }
        guard !matching.isEmpty else {
            throw Self.refusal("No keyslots match given (old) password for erase operation")
        }
        guard matching.count < active.count || force else {
            throw Self.refusal(
                "All the active keyslots match the (old) password that was given and erasing them will erase "
                    + "all the data in the image irreversibly - refusing operation")
        }
        return matching
    }
}

extension LuksVolume {
    /// Changes key slots. Durable on return.
    ///
    /// The order of writes, with a flush after each step. When filling a slot:
    ///
    /// 1. the new key material and the slot's entry, still inactive;
    /// 2. the entry with the flag that makes it active.
    ///
    /// When erasing a slot:
    ///
    /// 1. the entry without flag and salt;
    /// 2. random bytes over the key material.
    ///
    /// An active slot is replaced with the help of a spare one, so that the old or the new passphrase opens
    /// the volume at any time; when all eight slots are active, only the other passphrases open it meanwhile.
    ///
    /// - Throws: `limit`, `io`.
    mutating func apply(_ action: LuksSlotChange.Action, key: KeyMaterial) throws(BlockError) {
        switch action {
        case .fill(let index, let passphrase, let milliseconds):
            try replace(index, key, passphrase, milliseconds)
        case .erase(let indices):
            for index in indices { try erase(index) }
        }
    }

    private mutating func replace(
        _ index: Int, _ key: KeyMaterial, _ passphrase: KeyMaterial, _ milliseconds: Int
    ) throws(BlockError) {
        let spare = header.slots.indices.first { $0 != index && !header.slots[$0].isActive }
        let isActive = header.slots[index].isActive
        try checkWork(replacing: index, by: isActive ? spare : nil)
        if isActive, let spare { try add(spare, key, passphrase, milliseconds) }
        if isActive { try erase(index) }
        try add(index, key, passphrase, milliseconds)
        if isActive, let spare { try erase(spare) }
    }

    /// Checks before any change that the limit of work has room for the new slot.
    ///
    /// - Throws: `limit`.
    private func checkWork(replacing index: Int, by spare: Int?) throws(BlockError) {
        var changed = header
        if let spare {
            changed.slots[spare].iterations = KeyStretching.minimumIterations
            changed.slots[spare].isActive = true
            _ = try header.maximumIterations
        }
        changed.slots[index].isActive = false
        _ = try changed.maximumIterations
    }

    /// Fills and activates an inactive slot.
    private mutating func add(
        _ index: Int, _ key: KeyMaterial, _ passphrase: KeyMaterial, _ milliseconds: Int
    ) throws(BlockError) {
        var slot = try fill(slot: index, key, passphrase, milliseconds)
        slot.isActive = false
        try put(slot, index)
        slot.isActive = true
        try put(slot, index)
    }

    private mutating func erase(_ index: Int) throws(BlockError) {
        var slot = header.slots[index]
        slot.isActive = false
        slot.iterations = 0
        slot.salt = [UInt8](repeating: 0, count: Luks.saltBytes)
        try put(slot, index)
        let noise = try LibCrypto.randomBytes(Luks.materialBytes(keyBytes: header.keyBytes))
        try area.write(noise.span.bytes, at: slot.materialOffset)
        try area.flush()
    }

    /// Writes a slot's entry, durably. After a failure the entry in memory is unchanged.
    private mutating func put(_ slot: LuksSlot, _ index: Int) throws(BlockError) {
        let before = header
        header.slots[index] = slot
        do throws(BlockError) {
            try writeHeader()
            try area.flush()
        } catch {
            header = before
            throw error
        }
    }
}
