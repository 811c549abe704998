import BlockCore
import BlockTestSupport
import CHost
import Testing

@Suite struct BufferTests {
    // A span cannot be an operand of #expect: these take it apart first.
    private func isZero(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.isZero }
    private func isZero(_ buffer: AlignedBuffer, _ range: Range<Int>) -> Bool { buffer.bytes(range).isZero }
    private func same(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        left.span.bytes.hasSameBytes(as: right.span.bytes)
    }

    @Test func buffersAreAlignedAndZeroedWhenAsked() {
        for count in [0, 1, 511, 4096, 70_000] {
            let buffer = AlignedBuffer(count: count, zeroed: true)
            #expect(isZero(buffer, 0..<count))
            let address = buffer.bytes.withUnsafeBytes { Int(bitPattern: $0.baseAddress) }
            #expect(address % AlignedBuffer.alignmentBytes == 0)
        }
    }

    @Test func partsAreParts() {
        let buffer = AlignedBuffer(count: 1000, zeroed: true)
        var part = buffer.mutableBytes(100..<200)
        part.fill(7)
        part.copy(from: ([1, 2, 3] as [UInt8]).span.bytes, at: 97)
        #expect(isZero(buffer, 0..<100) && isZero(buffer, 200..<1000))
        let end = buffer.bytes(196..<200).array
        #expect(end == [7, 1, 2, 3])
    }

    @Test(arguments: [0, 1, 7, 8, 63, 64, 65, 127, 128, 200])
    func oneByteIsFound(_ count: Int) {
        var bytes = [UInt8](repeating: 0, count: count)
        #expect(isZero(bytes))
        for index in 0..<count {
            bytes[index] = 1
            #expect(!isZero(bytes))
            var other = bytes
            #expect(same(bytes, other))
            other[index] = 0x80
            #expect(!same(bytes, other))
            bytes[index] = 0
        }
        #expect(!same(bytes, bytes + [0]))
    }

    private let sample: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8, 9]

    private func big<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T? {
        sample.span.bytes.bigEndian(type, at: offset)
    }
    private func little<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T? {
        sample.span.bytes.littleEndian(type, at: offset)
    }
    private func text(_ range: Range<Int>) -> String? { sample.span.bytes.text(range) }

    @Test func integersAreCheckedForBounds() {
        #expect(big(UInt32.self, 0) == 0x0102_0304)
        #expect(little(UInt16.self, 7) == 0x0908)
        #expect(big(UInt64.self, 1) == 0x0203_0405_0607_0809)
        for offset in [2, 9, -1, Int.max, Int.min] {
            #expect(big(UInt64.self, offset) == nil)
            #expect(little(UInt64.self, offset) == nil)
        }
        #expect(text(0..<10) == nil && text(-1..<3) == nil && text(9..<9)?.isEmpty == true)
    }

    @Test func roundingDoesNotOverflow() {
        #expect(5.roundedUp(to: 4) == 8 && 8.roundedUp(to: 4) == 8 && 0.roundedUp(to: 4) == 0)
        #expect(Int.max.roundedUp(to: 4096) == nil)
        #expect(4097.roundedDown(to: 4096) == 4096)
        #expect(4096.isPowerOfTwo && !0.isPowerOfTwo && !(-8).isPowerOfTwo && !6.isPowerOfTwo)
    }
}

@Suite struct FileNameTests {
    @Test(arguments: [
        ("base", "dir/image", "dir/base"), ("base", "image", "base"), ("/abs", "dir/image", "/abs"),
        ("../x", "a/b/image", "a/b/../x"), ("nbd:host:1", "dir/image", "nbd:host:1"),
        ("json:{}", "dir/image", "json:{}"), ("./a:b", "dir/image", "dir/./a:b"),
        ("base", "file:dir/image", "dir/base"), ("base", "http://host/d/image", "http://host/d/base"),
        ("base", "./a:b/image", "./a:b/base"), ("base", "json:{\"x\":\"a/b\"}", "base"), ("", "d/i", "d/"),
    ])
    func namesAreRelativeToTheImage(_ name: String, _ image: String, _ expected: String) {
        #expect(FileNames.resolve(name, relativeTo: image) == expected)
    }

    @Test func schemes() {
        #expect(DriverRegistry.scheme(of: "nbd:x") == "nbd")
        #expect(DriverRegistry.scheme(of: "./a:b") == nil)
        #expect(DriverRegistry.scheme(of: "plain") == nil)
        #expect(DriverRegistry.scheme(of: ":x") == nil)
        #expect(FileNames.lastComponent("a/b/c") == "c" && FileNames.lastComponent("c") == "c")
    }
}

@Suite struct SparseBytesTests {
    /// The model itself is held against a plain array.
    @Test func behavesLikeAnArray() {
        var random = SeededRandom(seed: TestEffort.seed)
        var sparse = SparseBytes()
        var plain: [UInt8] = []
        for step in 0..<400 {
            let offset = random.number(in: 0..<20_000)
            let count = random.number(in: 0..<9000)
            switch random.number(in: 0..<3) {
            case 0:
                let bytes = Pattern.bytes(stamp: step, at: offset, count: count)
                sparse.write(bytes, at: offset)
                plain += [UInt8](repeating: 0, count: max(0, offset + count - plain.count))
                plain.replaceSubrange(offset..<offset + count, with: bytes)
            case 1:
                sparse.zero(offset..<offset + count)
                plain += [UInt8](repeating: 0, count: max(0, offset + count - plain.count))
                plain.replaceSubrange(offset..<offset + count, with: repeatElement(0, count: count))
            default:
                sparse.resize(to: offset)
                plain = Array(plain.prefix(offset))
                plain += [UInt8](repeating: 0, count: offset - plain.count)
            }
            #expect(sparse.count == plain.count)
            #expect(sparse.read(at: 0, count: plain.count) == plain)
        }
    }
}

#if os(Linux)
    @Suite struct KeyMaterialTests {
        /// While the process holds a secret, nobody dumps its memory.
        @Test func secretsStayInTheProcess() {
            let secret = KeyMaterial("open sesame")
            #expect(platter_is_dumpable() == 0)
            #expect(secret.count == 11)
        }
    }
#endif
