import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Images from strangers: every damage of the table is answered, not obeyed.
@Suite(.serialized) struct HostileQcow2Tests {
    private let gauntlet = Gauntlet(formats: StandardFormats.all, format: "qcow2")

    private func store(_ image: Qcow2Bytes) -> TestStore { TestStore(["disk": image.bytes]) }

    /// What is not asked for by a damaged image must be right, or the cases prove nothing.
    @Test(arguments: 9...21, [2, 3])
    func soundImageIsSound(clusterBits: Int, version: Int) throws {
        let image = Qcow2Bytes(version: version, clusterBits: clusterBits)
        let result = try gauntlet.check(store(image))
        #expect(result.corruptions == 0 && result.leaks == 0 && result.checkErrors == 0)
        let bytes = try gauntlet.with(store(image)) { node throws(BlockError) in
            try node.readBytes(at: 0, count: image.clusterSize * 3)
        }
        let expected = [0xa0, 0xa1, 0].flatMap { [UInt8](repeating: $0, count: image.clusterSize) }
        #expect(bytes == expected)
    }

    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all)
    func opening(_ damage: HostileCase) throws {
        let store = store(damage.image)
        guard let refusal = damage.refusal else {
            try gauntlet.with(store) { _ in }
            return
        }
        let error = #expect(throws: BlockError.self) { try gauntlet.open(store) }
        #expect(error?.message.contains(refusal) == true, "\(error?.message ?? "")")
        #expect(error?.path == "disk")
    }

    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all.filter { $0.refusal == nil })
    func reading(_ damage: HostileCase) throws {
        let store = store(damage.image)
        let read = { () throws(BlockError) in
            try gauntlet.with(store) { node throws(BlockError) in try gauntlet.readAll(node) }
        }
        if let fragment = damage.readFailure {
            let error = #expect(throws: BlockError.self) { try read() }
            #expect(error?.message.contains(fragment) == true, "\(error?.message ?? "")")
            #expect(error?.kind == .corrupt && error?.path == "disk")
        } else {
            try read()
        }
        gauntlet.look(store)
        #expect(store["disk"] == damage.image.bytes, "reading changes nothing")
    }

    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all.filter { $0.refusal == nil })
    func checking(_ damage: HostileCase) throws {
        let result = try gauntlet.check(store(damage.image))
        #expect(finding(result) == damage.finding, "\(result)")
        let copy = store(damage.image)
        let repaired = try? gauntlet.check(copy, repair: .all)
        // Where entries were given up, what they may have referred to is freed by another repair only.
        if let repaired, repaired.corruptions == 0, repaired.leaks > 0 {
            _ = try? gauntlet.check(copy, repair: .leaks)
            _ = try? gauntlet.check(copy, repair: .all)
        }
        let again = try? gauntlet.check(copy)
        if damage.isRepairable {
            #expect(again.map(finding) == .nothing, "\(repaired as Any) \(again as Any)")
        } else if let repaired, repaired.corruptions == 0, repaired.checkErrors == 0 {
            #expect(again.map(finding) == .nothing, "a repair that says all is well must be right")
        }
    }

    private func finding(_ result: CheckResult) -> HostileCase.Finding {
        if result.corruptions > 0 || result.checkErrors > 0 { return .corruption }
        return result.leaks > 0 ? .leaks : .nothing
    }

    /// Writing to a damaged image destroys nothing that the damage had left.
    @Test(.timeLimit(.minutes(5)), arguments: HostileCase.all)
    func changing(_ damage: HostileCase) throws {
        let store = store(damage.image)
        gauntlet.change(store)
        gauntlet.changeBitmaps(store)
        gauntlet.look(store)
        // The header is readable as long as it was.
        if damage.refusal == nil { try gauntlet.with(store) { _ in } }
    }

    /// A header that ends at any byte is refused, and never read past its end.
    @Test func truncatedHeaders() throws {
        let whole = Qcow2Bytes().bytes.read(at: 0, count: Qcow2Bytes.Field.extensions)
        for length in 0..<112 {
            let error = #expect(throws: BlockError.self, "\(length)") {
                try gauntlet.open(TestStore(["disk": SparseBytes(Array(whole.prefix(length)))]))
            }
            #expect(error?.path == "disk" && error?.message.isEmpty == false)
            #expect(error?.kind == (length < 4 ? .wrongFormat : .corrupt), "\(length)")
        }
    }

    /// Who deletes a snapshot names it; that another one's id looks the same is no reason to lose that one.
    @Test func deletingGoesByName() throws {
        let store = store(Qcow2Bytes())
        try gauntlet.with(store, readOnly: false) { node throws(BlockError) in
            for name in ["A", "1"] { try node.createSnapshot(SnapshotInfo(id: "", name: name)) }
            try node.deleteSnapshot(named: "1")
        }
        let left = try gauntlet.with(store) { node throws(BlockError) in
            try (node.format as? any SnapshotCapable)?.snapshots().map(\.name)
        }
        #expect(left == ["A"])
        let error = #expect(throws: BlockError.self) {
            try gauntlet.with(store, readOnly: false) { node throws(BlockError) in
                try node.deleteSnapshot(named: "1")
            }
        }
        #expect(error?.kind == .notFound)
    }

    /// Rewriting the table must bear, and keep, a name that is no UTF-8 and an id after which no number
    /// comes.
    @Test(arguments: ["9223372036854775807", "18446744073709551615", "4294967295"])
    func strangeSnapshotNamesAreKept(_ id: String) throws {
        var image = Qcow2Bytes(clusterBits: 16)
        let table = image.addSnapshot()
        let name = [UInt8](repeating: 0xFF, count: 30_000)
        let text = Array(id.utf8)
        image.put16(UInt16(text.count), at: table + Qcow2Bytes.Snapshot.idSize)
        image.put16(UInt16(name.count), at: table + Qcow2Bytes.Snapshot.nameSize)
        image.write(text + name, at: table + Qcow2Bytes.Snapshot.id)
        let store = TestStore(["disk": image.bytes])
        let opener = ImageOpener(registry: store.registry([Qcow2Driver.self]))
        let node = try opener.open("disk", settings: OpenSettings(readOnly: false))
        let snapshots = try #require(node.format as? any SnapshotCapable)
        try snapshots.createSnapshot(SnapshotInfo(id: "", name: "two"))
        let all = try snapshots.snapshots()
        try node.close()
        #expect(all.count == 2 && all[0].id == id && Set(all.map(\.id)).count == 2)
        let file = try #require(store["disk"])
        let place = file.big(at: Qcow2Bytes.Field.snapshotsOffset)
        let kept = file.read(at: place + Qcow2Bytes.Snapshot.id, count: text.count + name.count)
        #expect(place != table && kept == text + name)
    }
}
