import BlockCore
import BlockFormats

/// What a fuzzer can aim at: bytes become an image, which is then looked at, checked, repaired and changed.
///
/// Nothing may trap, hang or take much memory; errors are an answer. Everything happens in memory.
public struct FuzzTarget: Sendable {
    public var name: String
    /// Makes an image of the fuzzer's bytes.
    let image: @Sendable ([UInt8]) -> SparseBytes
    let format: String
    var isCanary = false
    /// A qcow2 image that is opened with a password.
    var isEncrypted = false
    /// Makes the other files of a chain, which is then read and written through.
    var below: (@Sendable ([UInt8]) -> [String: SparseBytes])?
    /// Does everything itself, where the bytes are no image, and answers whether they led to one.
    var act: (@Sendable ([UInt8]) -> Bool)?

    /// Every registered format by itself, and parts of qcow2 images that mere chance does not reach.
    public static let all: [FuzzTarget] =
        StandardFormats.all.map { format in
            FuzzTarget(name: format.name, image: { SparseBytes($0) }, format: format.name)
        } + [
            qcow2("qcow2-header") { image, bytes in image.write(Array(bytes.prefix(512)), at: 0) },
            qcow2("qcow2-tables") { image, bytes in
                patch(&image, bytes, over: image.refcountTable..<image.data)
            },
            qcow2("qcow2-snapshots") { image, bytes in
                let table = image.addSnapshot()
                image.write(Array(bytes.prefix(image.clusterSize)), at: table)
                image.put32(UInt32(1 + bytes.count / 72), at: Qcow2Bytes.Field.snapshotCount)
            },
            qcow2("qcow2-bitmaps") { image, bytes in
                let directory = image.addCluster(Array(bytes.prefix(image.clusterSize)))
                let size = min(bytes.count, image.clusterSize)
                image.put64(1, at: Qcow2Bytes.Field.autoclear)
                image.setExtensions([(0x2385_2875, bitmapsHeader(size: size, directory: directory))])
            },
            FuzzTarget(name: "dmg-tables", image: dmgTable, format: "dmg"),
            FuzzTarget(name: "dmg-fork", image: dmgFork, format: "dmg"),
            FuzzTarget(name: "dmg-chunks", image: dmgChunk, format: "dmg"),
            qcow2("qcow2-bitmap-tables") { image, bytes in
                addBitmaps(to: &image)
                patch(&image, bytes, over: image.data..<image.end)
            },
            FuzzTarget(
                name: "luks-header",
                image: { bytes in
                    var volume = LuksBytes.volume
                    patchHeader(&volume, at: 0, bytes)
                    return volume
                }, format: "luks"),
            FuzzTarget(name: "qcow2-luks", image: { encrypted($0) }, format: "qcow2", isEncrypted: true),
            FuzzTarget(name: "vhdx-tables", image: FuzzVhdx.tables, format: "vhdx"),
            FuzzTarget(name: "vhdx-log", image: FuzzVhdx.log, format: "vhdx"),
            FuzzTarget(name: "asif-tables", image: asifTables, format: "asif"),
            FuzzTarget(name: "vpc-sealed", image: sealedVhd, format: "vpc"),
            FuzzTarget(
                name: "canary", image: { SparseBytes($0) }, format: StandardFormats.defaultName,
                isCanary: true),
        ] + chains + texts

    public static func named(_ name: String) -> FuzzTarget? { all.first { $0.name == name } }

    private static func qcow2(
        _ name: String, _ change: @escaping @Sendable (inout Qcow2Bytes, [UInt8]) -> Void
    ) -> FuzzTarget {
        FuzzTarget(
            name: name,
            image: { bytes in
                var image = Qcow2Bytes(clusterBits: 9)
                change(&image, bytes)
                return image.bytes
            }, format: "qcow2")
    }

    /// The bytes are a block table, which is too deep in Base64 and XML for chance.
    @Sendable private static func dmgTable(_ bytes: [UInt8]) -> SparseBytes {
        var image = DmgBytes(sectors: 1 << 20)
        image.data = Array(bytes.suffix(4096))
        image.tables = [Array("mish".utf8) + bytes]
        return image.file
    }

    /// The bytes are a resource fork.
    @Sendable private static func dmgFork(_ bytes: [UInt8]) -> SparseBytes {
        var image = DmgBytes(sectors: 1 << 20)
        image.directory = .resourceFork
        image.directoryBytes = bytes
        return image.file
    }

    /// The first byte chooses the encoding of a chunk of 64 KiB, the others are its stream.
    @Sendable private static func dmgChunk(_ bytes: [UInt8]) -> SparseBytes {
        var image = DmgBytes(sectors: 128)
        image.data = Array(bytes.dropFirst())
        let type = 0x8000_0004 + UInt32((bytes.first ?? 0) % 5)
        image.tables = [
            DmgBytes.table(first: 0, sectors: 128, [.init(type, 0, 128, 0, UInt64(image.data.count))])
        ]
        return image.file
    }

    /// The bytes are, one behind the other, what matters of an image with chunks of 32 KiB: header and
    /// directories, the start of a table, the entry of its sector map, the map.
    @Sendable private static func asifTables(_ bytes: [UInt8]) -> SparseBytes {
        let chunk = 32 << 10
        var image = SparseBytes(count: 8 * chunk)
        for (part, offset) in [
            (0..<1536, 0), (1536..<1600, chunk), (1600..<1608, chunk + 2048 * 8), (1608..<2608, 3 * chunk),
        ] {
            image.write(Array(bytes.dropFirst(part.lowerBound).prefix(part.count)), at: offset)
        }
        return image
    }

    /// Ten bytes a patch: where, and the eight bytes that go there.
    static func patch(_ image: inout Qcow2Bytes, _ bytes: [UInt8], over range: Range<Int>) {
        for start in stride(from: 0, to: max(0, bytes.count - 9), by: 10) {
            let place = (Int(bytes[start]) << 8 | Int(bytes[start + 1])) * 8 % range.count
            image.write(Array(bytes[start + 2..<start + 10]), at: range.lowerBound + place)
        }
    }

    /// Three bitmaps: one of data, one of ones, one that is in use.
    private static func addBitmaps(to image: inout Qcow2Bytes) {
        image.addBitmaps([
            BitmapFields(granularityBits: 9),
            BitmapFields(flags: 0, granularityBits: 10, name: Array("two".utf8), table: [1]),
            BitmapFields(flags: 3, name: [0xff, 0x20]),
        ])
    }

    /// A qcow2 image whose data LUKS encrypts; the first half of the patches are of its header, the others of
    /// the LUKS header.
    private static func encrypted(_ bytes: [UInt8]) -> SparseBytes {
        var image = Qcow2Bytes(clusterBits: 12)
        let first = image.addCluster(LuksBytes.header)
        while image.end < first + LuksBytes.payload { _ = image.addCluster() }
        image.put32(2, at: Qcow2Bytes.Field.crypt)
        var place: [UInt8] = []
        for number in [UInt64(first), UInt64(LuksBytes.payload)] {
            place += ImageBytes.big(number)
        }
        image.setExtensions([(0x0537_be77, place)])
        let half = bytes.count / 20 * 10
        patch(&image, Array(bytes.prefix(half)), over: 0..<160)
        var file = image.bytes
        patchHeader(&file, at: first, Array(bytes.dropFirst(half)))
        return file
    }

    /// Patches a LUKS header. Iterations stay below 65536, so that it is opened quickly: the limit on them
    /// has tests of its own.
    private static func patchHeader(_ file: inout SparseBytes, at start: Int, _ bytes: [UInt8]) {
        for patch in stride(from: 0, to: max(0, bytes.count - 9), by: 10) {
            let place = (Int(bytes[patch]) << 8 | Int(bytes[patch + 1])) * 4 % LuksBytes.headerBytes
            file.write(Array(bytes[patch + 2..<patch + 10]), at: start + place)
        }
        for field in LuksBytes.iterationFields { file.write([0, 0], at: start + field) }
    }

    private static func bitmapsHeader(size: Int, directory: Int) -> [UInt8] {
        var data: [UInt8] = [0, 0, 0, UInt8(clamping: 1 + size / 40), 0, 0, 0, 0]
        for number in [UInt64(size), UInt64(directory)] {
            data += ImageBytes.big(number)
        }
        return data
    }

    /// The image that `bytes` make, and what is to be done to it.
    public func begin(_ bytes: [UInt8]) -> (store: TestStore, gauntlet: Gauntlet) {
        var gauntlet = Gauntlet(formats: StandardFormats.all, format: format)
        if isEncrypted || format == "luks" {
            gauntlet.unlock(LuksBytes.passphrase, prefix: isEncrypted ? "encrypt." : "")
        }
        guard let below else { return (TestStore(["disk": image(bytes)]), gauntlet) }
        gauntlet.opensBacking = true
        return (TestStore(below(bytes).merging(["disk": image(bytes)]) { $1 }), gauntlet)
    }

    /// Whether `bytes` name an image that opens; `nil` where they make one.
    public func opens(_ bytes: [UInt8]) -> Bool? { act?(bytes) }

    /// Does everything to the image that `bytes` make.
    public func run(_ bytes: [UInt8]) {
        if isCanary, bytes.starts(with: Array("BUG".utf8)) {
            fatalError("the canary was found, as it must be")
        }
        if let act { return _ = act(bytes) }
        let (store, gauntlet) = begin(bytes)
        let files = store.files
        gauntlet.look(store)
        _ = try? gauntlet.check(store)
        _ = try? gauntlet.check(store, repair: .all)
        gauntlet.look(store)
        for (name, file) in files { store[name] = file }
        gauntlet.change(store)
        gauntlet.changeBitmaps(store)
        gauntlet.changeKeySlots(store)
    }
}
