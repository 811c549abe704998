import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// VDI images made by one program and read by others.
@Suite(.enabled(if: Peer.isExpected)) struct VdiInteropTests {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private func run(_ script: String) throws -> String {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        guard outcome.status == 0 else { throw Mismatch("\(script): \(outcome.text)") }
        return outcome.output
    }

    private static let fill =
        "-c 'write -P 1 0 4k' -c 'write -P 2 5M 3M' -c 'write -P 3 2621952 512' -c 'write -z 6M 1M'"

    @Test(.timeLimit(.minutes(2)), arguments: ["off", "on"]) func qemuWritesWeRead(isStatic: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f vdi -o static=\(isStatic) a.vdi 10M
            qemu-io \(Self.fill) a.vdi
            /usr/bin/qemu-img convert a.vdi q.raw
            platter convert a.vdi p.raw
            cmp q.raw p.raw
            platter check a.vdi
            """)
    }

    @Test(.timeLimit(.minutes(2)), arguments: ["off", "on"]) func weWriteOthersRead(isStatic: String) throws {
        _ = try run(
            """
            /usr/bin/qemu-img create -q -f raw src.raw 9999872
            qemu-io -f raw \(Self.fill) src.raw
            platter convert -O vdi -o static=\(isStatic) src.raw a.vdi
            /usr/bin/qemu-img check a.vdi
            /usr/bin/qemu-img compare src.raw a.vdi
            7z e -so a.vdi > z.raw
            truncate -s 9999872 z.raw
            cmp src.raw z.raw
            platter resize a.vdi 300M
            /usr/bin/qemu-img check a.vdi
            qemu-io -c 'write -P 9 299M 4k' a.vdi
            truncate -s 300M src.raw
            qemu-io -f raw -c 'write -P 9 299M 4k' src.raw
            /usr/bin/qemu-img compare src.raw a.vdi
            platter compare src.raw a.vdi
            platter resize --shrink a.vdi 3M
            truncate -s 3M src.raw
            /usr/bin/qemu-img check a.vdi
            /usr/bin/qemu-img compare src.raw a.vdi
            """)
    }

    @Test func theSameImageTwice() throws {
        _ = try run(
            """
            export SOURCE_DATE_EPOCH=1700000000
            mkdir one two
            for d in one two; do platter create -q -f vdi $d/a.vdi 5M; done
            cmp one/a.vdi two/a.vdi
            unset SOURCE_DATE_EPOCH
            platter create -q -f vdi two/a.vdi 5M
            ! cmp -s one/a.vdi two/a.vdi
            """)
    }

    // MARK: Stopped

    private static func open(_ store: TestStore, readOnly: Bool = false) throws -> BlockNode {
        try ImageOpener(registry: store.registry([VdiDriver.self, RawDriver.self])).open(
            "disk", format: "vdi", settings: OpenSettings(readOnly: readOnly))
    }

    private static func image() throws -> TestStore {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry([VdiDriver.self, RawDriver.self]))
        var values = try opener.createOptions(format: "vdi", filename: "disk")
        try values.set(.size, to: String(6 << 20))
        try opener.create("disk", format: "vdi", options: values)
        let node = try open(store)
        try node.write([1, 2, 3].span.bytes, at: 4 << 20)
        try node.close()
        store.clearLog()
        return store
    }

    private static func change(_ node: BlockNode) throws {
        for (block, value) in [(2, 5), (0, 6), (3, 7)] {
            try node.write([UInt8](repeating: UInt8(value), count: 4096).span.bytes, at: block << 20)
            try node.flush()
        }
        try node.writeZeroes(at: 4 << 20, count: 1 << 20)
        try node.resize(to: 4 << 20)
        try node.resize(to: 5 << 20)
        try node.write([8].span.bytes, at: 1 << 20)
    }

    /// What qemu-img's check complains of.
    private func complaints(_ file: SparseBytes) throws -> [String] {
        try fixture.write("disk.vdi", file.read(at: 0, count: file.count))
        let outcome = try fixture.shell("/usr/bin/qemu-img check -f vdi disk.vdi")
        let lines = outcome.text.split(separator: "\n").map(String.init).filter { $0.hasPrefix("ERROR") }
        guard (outcome.status == 0) == lines.isEmpty else { throw Mismatch(outcome.text) }
        return lines
    }

    private func isOnlyAHighCount(_ lines: [String]) -> Bool {
        guard lines.count == 1, lines[0].contains("allocated blocks mismatch") else { return lines.isEmpty }
        let numbers = lines[0].split { !$0.isNumber }.compactMap { Int($0) }
        // The entries that there are, and the count in the header.
        return numbers.count == 2 && numbers[0] < numbers[1]
    }

    /// The count and the map are in two sectors, which no order of writes changes at once: a kill between
    /// them leaves a count that is too high, and nothing else, until the next writer closes the image.
    @Test(.timeLimit(.minutes(2))) func whatACrashLeavesForQEMU() throws {
        let store = try Self.image()
        let files = store.files
        let node = try Self.open(store)
        try Self.change(node)
        try node.close()
        var seen: Set<[UInt8]> = []
        var judged = 0
        try CrashPoints.replay(store.log, over: files, seed: 5) { files, _, moment in
            guard let file = files["disk"], seen.insert(file.read(at: 0, count: 2048)).inserted else {
                return
            }
            judged += 1
            let lines = try complaints(file)
            #expect(isOnlyAHighCount(lines), "\(moment): \(lines)")
            let repaired = TestStore(files)
            try Self.open(repaired).close()
            let left = try complaints(try #require(repaired["disk"]))
            #expect(left.isEmpty, "\(moment), opened and closed: \(left)")
        }
        #expect(judged > 8)
        #expect(try complaints(try #require(store["disk"])).isEmpty)
    }

    /// Where the disk is full, and where a call fails, the image is closed with a count that is right.
    @Test(.timeLimit(.minutes(2)), arguments: FaultPlan.Mode.usual)
    func whatAFullDiskLeavesForQEMU(_ mode: FaultPlan.Mode) throws {
        let files = try Self.image().files
        var seen: Set<[UInt8]> = []
        for number in 1... {
            let store = TestStore(files)
            let node = try Self.open(store)
            store.faults.arm(number, mode)
            let outcome = Result { try Self.change(node) }
            let failures = store.faults.failures
            store.faults.disarm()
            try node.close()
            let file = try #require(store["disk"])
            if seen.insert(file.read(at: 0, count: 2048)).inserted {
                let lines = try complaints(file)
                #expect(lines.isEmpty, "call \(number): \(lines)")
            }
            if failures == 0 { return try outcome.get() }
        }
    }
}
