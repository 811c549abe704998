import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Bitmaps after a crash or a failed call: inconsistent or right, never silently wrong; the image always
/// sound.
@Suite struct Qcow2BitmapCrashTests {
    /// Where a header has its extensions.
    enum Header: CaseIterable {
        case own
        /// As QEMU leaves it: names of features that fill the first sector, the bitmaps behind them.
        case behindNames
        /// The backing name lies where extensions would go next.
        case beforeBackingName
    }

    private static let size = 256 << 10

    private static func image(_ cluster: Int, _ header: Header = .own) -> BitmapImage {
        var image = BitmapImage(cluster: cluster, size: size)
        if header == .beforeBackingName {
            var configuration = image.configuration
            configuration.backingSize = size / 2
            image = BitmapImage(configuration)
        }
        return image
    }

    /// Gives a new image another header, with a bitmap or not.
    private static func store(_ image: BitmapImage, _ header: Header, bitmaps: [Int]) throws -> TestStore {
        let store = try image.create()
        if header != .own {
            var disk = try #require(store["disk"])
            disk.write(headerWithLongNames(disk), at: 0)
            store["disk"] = disk
        }
        if !bitmaps.isEmpty {
            try image.change(store) { keeper throws(BlockError) in
                for granularity in bitmaps {
                    try keeper.addBitmap("every \(granularity)", granularity: granularity, isEnabled: true)
                }
            }
        }
        return TestStore(store.files)
    }

    /// The same fixed fields; then names of features up to the end of the first sector, and the backing name.
    private static func headerWithLongNames(_ disk: SparseBytes) -> [UInt8] {
        var header = disk.read(at: 0, count: Qcow2Bytes.Field.extensions)
        let place = disk.big(at: Qcow2Bytes.Field.backingOffset)
        let name = place == 0 ? [] : disk.read(at: place, count: 4)
        let format: [UInt8] = [0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3] + Array("raw".utf8) + [0, 0, 0, 0, 0]
        if place != 0 { header += format }
        let room = 512 - header.count - 8
        header += [0x68, 0x03, 0xf8, 0x57, 0, 0, UInt8(room >> 8), UInt8(room & 0xff)]
        header += [UInt8](repeating: 0x20, count: room) + [UInt8](repeating: 0, count: 8)
        if place != 0 {
            for (index, shift) in stride(from: 56, through: 0, by: -8).enumerated() {
                header[8 + index] = UInt8(truncatingIfNeeded: header.count >> shift)
            }
        }
        return header + name
    }

    /// A consistent enabled bitmap has all that differs from `before`, where that was clean of marks.
    private static func judge(_ image: BitmapImage, _ store: TestStore, before: [UInt8]) throws {
        // Who comes next may have to repair first, as with any image after a crash.
        let node = try image.open(store, readOnly: true)
        let now = try node.readBytes(at: 0, count: size)
        let keeper = try node.bitmapKeeper()
        for info in try keeper.bitmaps() where info.isEnabled && !info.isInconsistent {
            let bits = try keeper.bitmap(named: info.name)
            for offset in stride(from: 0, to: size, by: 512)
            where now[offset..<offset + 512] != before[offset..<offset + 512] && !bits.contains(offset) {
                throw Mismatch("bitmap '\(info.name)' does not have the change at \(offset)")
            }
        }
        try node.close()
        let (result, lines) = try image.check(store)
        guard result.corruptions == 0, result.checkErrors == 0 else { throw Mismatch("\(lines)") }
        // It can be used further, and removing what is inconsistent is all that is needed.
        let writer = try image.open(store, readOnly: false)
        try writer.write([9].span.bytes, at: 1000)
        try writer.changeBitmaps { keeper throws(BlockError) in
            for info in try keeper.bitmaps() where info.isInconsistent { try keeper.removeBitmap(info.name) }
        }
        try writer.close()
        for info in try image.infos(store) where info.isEnabled {
            guard try image.runs(store, info.name).contains(where: { $0.contains(1000) }) else {
                throw Mismatch("bitmap '\(info.name)' does not record any more")
            }
        }
        guard try image.check(store).0.corruptions == 0 else { throw Mismatch("damaged after further use") }
    }

    private func run(
        _ cluster: Int, _ header: Header, bitmaps: [Int],
        _ action: (BlockNode) throws -> Void
    ) throws {
        let image = Self.image(cluster, header)
        let store = try Self.store(image, header, bitmaps: bitmaps)
        let reader = try image.open(store, readOnly: true)
        let before = try reader.readBytes(at: 0, count: Self.size)
        try reader.close()
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try image.open(store, readOnly: false)
                do { try action(node) } catch {
                    try? node.close()
                    throw error
                }
                try node.close()
            }, verify: { store in try Self.judge(image, TestStore(store.files), before: before) })
    }

    @Test(.timeLimit(.minutes(5)), arguments: [512, 4096, 65536], Header.allCases)
    func writing(cluster: Int, header: Header) throws {
        if cluster == 512 && header != .own { return }
        try run(cluster, header, bitmaps: [512, 65536]) { node in
            try node.write([UInt8](repeating: 1, count: 3000).span.bytes, at: 100)
            try node.flush()
            try node.discard(at: 65536, count: 65536)
            try node.writeZeroes(at: 131_072, count: 5000)
            try node.flush()
            try node.write([UInt8](repeating: 2, count: 1).span.bytes, at: Self.size - 1)
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: [4096, 65536], Header.allCases)
    func addingTheFirst(cluster: Int, header: Header) throws {
        try run(cluster, header, bitmaps: []) { node in
            try node.changeBitmaps { keeper throws(BlockError) in
                try keeper.addBitmap("new", granularity: 4096, isEnabled: true)
            }
            try node.write([1, 2, 3].span.bytes, at: 50_000)
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: [4096, 65536], Header.allCases)
    func removingTheLast(cluster: Int, header: Header) throws {
        try run(cluster, header, bitmaps: [512]) { node in
            try node.write([1].span.bytes, at: 0)
            try node.changeBitmaps { keeper throws(BlockError) in try keeper.removeBitmap("every 512") }
            try node.write([1, 2, 3].span.bytes, at: 50_000)
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: [512, 4096])
    func changing(cluster: Int) throws {
        try run(cluster, .own, bitmaps: [512, 4096, 65536]) { node in
            try node.changeBitmaps { keeper throws(BlockError) in
                try keeper.setBitmap("every 512", isEnabled: false)
                try keeper.removeBitmap("every 4096")
            }
            try node.write([1].span.bytes, at: 7000)
            try node.changeBitmaps { keeper throws(BlockError) in
                try keeper.setBitmap("every 512", isEnabled: true)
                try keeper.clearBitmap("every 512")
                try keeper.mergeBitmap(try keeper.bitmap(named: "every 65536"), into: "every 512")
            }
            try node.write([1].span.bytes, at: 200_000)
        }
    }

    @Test(.timeLimit(.minutes(5)), arguments: [512, 4096])
    func reopening(cluster: Int) throws {
        try run(cluster, .own, bitmaps: [4096]) { node in
            try node.write([1].span.bytes, at: 7000)
            try node.reopen(readOnly: true)
            try node.reopen(readOnly: false)
            try node.write([1].span.bytes, at: 100_000)
        }
    }

    /// The size in the header and the tables of bitmaps change one after the other.
    @Test(.timeLimit(.minutes(5)), arguments: [512, 4096], [128 << 10, 3 << 20])
    func resizing(cluster: Int, to newSize: Int) throws {
        let image = Self.image(cluster)
        let store = try Self.store(image, .own, bitmaps: [512, 4096])
        try image.write(store, [0..<100, 200_000..<220_000])
        try checkInterruption(
            of: store.files,
            action: { store in
                let node = try image.open(store, readOnly: false)
                do { try node.resize(to: newSize) } catch {
                    try? node.close()
                    throw error
                }
                try node.close()
            },
            verify: { store in
                let store = TestStore(store.files)
                let (result, lines) = try image.check(store)
                guard result.corruptions == 0 else { throw Mismatch("\(lines)") }
                for info in try image.infos(store) where !info.isInconsistent {
                    let runs = try image.runs(store, info.name)
                    let hasAll = runs.contains { $0.contains(0) }
                    guard hasAll else { throw Mismatch("bitmap '\(info.name)' lost its marks") }
                }
            })
    }

    @Test("going to version 2 without them, stopped anywhere", .timeLimit(.minutes(3)))
    func downgradeStopped() throws {
        let image = Self.image(4096)
        let store = try Self.store(image, .own, bitmaps: [4096, 65536])
        try checkInterruption(of: store.files) { store in
            let node = try image.configuration.open(in: store, settings: OpenSettings(readOnly: false))
            do {
                var options = CreateOptions(Qcow2Driver.amendOptions)
                try options.set(name: "compat", to: "0.10")
                try node.amend(Amendment(options))
                try node.close()
            } catch {
                try? node.close()
                throw error
            }
        } verify: { store in
            let node = try image.configuration.open(in: store, settings: OpenSettings(forCheck: true))
            defer { try? node.close() }
            let result = try #require(node.format as? any Checkable).check(repair: .none) { _ in }
            guard result.corruptions == 0, result.checkErrors == 0 else { throw Mismatch("\(result)") }
        }
    }
}
