import BlockTestSupport
import Testing

/// One image, two programs: whatever one of them does to it, the other reads it and finds nothing wrong.
@Suite(.enabled(if: Peer.isExpected)) struct Qcow2InteropTests {
    /// Every create option, each with every value that changes the layout.
    static let created: [QemuImage.Options] = {
        var all = (9...21).map { bits in
            QemuImage.Options(cluster: 1 << bits, size: min(60 << bits, 7 << 20) + 512)
        }
        for bits in [1, 2, 4, 8, 16, 32, 64] {
            all.append(.init(cluster: 4096, size: 400_384, more: ["refcount_bits=\(bits)"]))
        }
        for more in [
            "compat=0.10", "compat=1.1", "lazy_refcounts=on", "preallocation=metadata",
            "preallocation=falloc",
            "preallocation=full", "compression_type=zstd", "compression_type=zlib",
        ] {
            all.append(.init(cluster: 4096, size: 400_384, more: [more]))
            all.append(.init(cluster: 65536, size: 1 << 20, backing: 700_000, more: [more]))
        }
        // QEMU does not preallocate over a backing file.
        all.removeAll { $0.backing != nil && $0.more[0].hasPrefix("preallocation") }
        return all
    }()

    @Test(.timeLimit(.minutes(5)), arguments: created)
    func qemuWritesWeRead(_ options: QemuImage.Options) throws {
        var image = try QemuImage(options, madeBy: "qemu-img", in: CommandFixture())
        try image.judge("new")
        try image.workQemu(seed: TestEffort.seed, count: 25)
        try image.judge("written by qemu-io")
    }

    @Test(.timeLimit(.minutes(5)), arguments: created)
    func weWriteQemuReads(_ options: QemuImage.Options) throws {
        var image = try QemuImage(options, madeBy: "platter", in: CommandFixture())
        try image.judge("new")
        try image.workOurs(seed: TestEffort.seed, count: 40)
        try image.judge("written by our driver")
    }

    static let shared: [QemuImage.Options] = [
        .init(cluster: 512, size: 65536), .init(cluster: 4096, size: 300_032, backing: 200_000),
        .init(cluster: 4096, size: 300_032, more: ["compat=0.10"]),
        .init(cluster: 65536, size: 1_500_160, backing: 2 << 20),
        .init(cluster: 4096, size: 300_032, more: ["lazy_refcounts=on"]),
        .init(cluster: 4096, size: 300_032, more: ["compression_type=zstd", "refcount_bits=64"]),
    ]

    /// In turn, with snapshots and new sizes between.
    @Test(.timeLimit(.minutes(5)), arguments: shared, Array(1...UInt64(TestEffort.scaled(3))))
    func bothWriteInTurn(_ options: QemuImage.Options, _ seed: UInt64) throws {
        var image = try QemuImage(
            options, madeBy: seed % 2 == 0 ? "platter" : "qemu-img", in: CommandFixture())
        var random = SeededRandom(seed: seed &* 977)
        for round in 0..<6 {
            let byQemu = (round + Int(seed)) % 2 == 0
            let workSeed = random.next()
            if byQemu {
                try image.workQemu(seed: workSeed, count: 10)
            } else {
                try image.workOurs(seed: workSeed, count: 15)
            }
            try image.judge("round \(round), written by \(byQemu ? "qemu-io" : "our driver")")
            let changeByQemu = random.number(in: 0..<2) == 0
            try image.change(&random, byQemu: changeByQemu)
            try image.judge("round \(round), changed by \(changeByQemu ? "qemu-img" : "platter")")
        }
        try image.judgeSnapshots()
    }
}
