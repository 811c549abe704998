import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What descriptors of other programs may have in them, and what becomes of it.
@Suite struct VmdkDescriptorTests {
    private typealias Images = VmdkImageTests

    private static func lines(_ store: TestStore, _ name: String = "disk") throws -> [[UInt8]] {
        let file = try #require(store[name])
        return file.read(at: 0, count: file.count).split(separator: 10).map { Array($0) }
    }

    private static func resize(_ store: TestStore, to bytes: Int) throws {
        let node = try Images.open(store, readOnly: false)
        try node.resize(to: bytes)
        try node.close()
    }

    /// Text in a code page, bytes that look like UTF-8, and the characters that stand for bytes.
    @Test func bytesThatAreNoTextSurviveAChange() throws {
        let odd: [[UInt8]] = [
            Array("ddb.comment = \"".utf8) + [0xFC, 0xE4, 0xC3, 0x28, 0xC3, 0xBC, 0x80, 0x22],
            Array("# ".utf8) + [0xF4, 0x8F, 0xBF, 0xBC, 0xF4, 0x8F, 0xBC, 0x80, 0xED, 0xA0, 0x80],
        ]
        var file = VmdkBytes.descriptor(["RW 8 FLAT \"a\" 0"])
        for line in odd { file.write(line + [10], at: file.count) }
        let store = TestStore(["disk": file, "a": SparseBytes([UInt8](repeating: 7, count: 4096))])
        try Self.resize(store, to: 8192)
        let lines = try Self.lines(store)
        for line in odd { #expect(lines.contains(line), "\(line)") }
        #expect(lines.contains(Array("RW 16 FLAT \"a\" 0".utf8)))
    }

    @Test func aNameThatIsNoTextIsTheBytesThatItIs() throws {
        var file = VmdkBytes.descriptor([])
        file.write(Array("RW 8 FLAT \"".utf8) + [0xFC] + Array("\" 0\n".utf8), at: file.count)
        let data = SparseBytes([UInt8](repeating: 7, count: 4096))
        let store = TestStore(["disk": file, String(raw: [0xFC]): data])
        #expect(try Images.open(store).readBytes(at: 4095, count: 1) == [7])
        let error = #expect(throws: BlockError.self) { try Images.open(TestStore(["disk": file])) }
        #expect(error?.kind == .notFound && error?.message.contains("'\(String(raw: [0xFC]))'") == true)
    }

    /// One file each: for Swift the two names are equal.
    @Test func namesAreComparedByBytes() throws {
        let file = VmdkBytes.descriptor(["RW 8 FLAT \"\u{E9}\" 0", "RW 8 FLAT \"e\u{301}\" 0"])
        let store = TestStore(["disk": file, "\u{E9}": SparseBytes([UInt8](repeating: 7, count: 4096))])
        #expect(try Images.open(store).children.count == 3)
    }

    @Test(arguments: ["\n", "\r\n"]) func aByteOrderMarkIsPassedOver(_ lineEnd: String) throws {
        let lines = VmdkBytes.text(["RW 8 FLAT \"\u{301}a\" 0"]).split(separator: "\n")
        let text = lines.joined(separator: lineEnd)
        let data = SparseBytes([UInt8](repeating: 7, count: 4096))
        // With the comment, and without.
        for start in ["", "version=1" + lineEnd] {
            let bytes = [0xEF, 0xBB, 0xBF] + Array((start + text).utf8)
            let store = TestStore(["disk": SparseBytes(bytes), "\u{301}a": data])
            #expect(VmdkDriver.probe(bytes.span.bytes, filename: "disk") == 100)
            #expect(try Images.open(store).readBytes(at: 4095, count: 1) == [7])
            try Self.resize(store, to: 8192)
            #expect(try Images.open(store).length() == 8192)
            #expect(try #require(store["disk"]).read(at: 0, count: 4) == Array(bytes[..<4]))
        }
        let wide = SparseBytes([0xFF, 0xFE, 0x23, 0])
        let error = #expect(throws: BlockError.self) { try Images.open(TestStore(["disk": wide])) }
        #expect(error?.hint?.contains("UTF-16") == true)
    }

    @Test(arguments: [
        "RW\t8\tFLAT\t\"a\"\t0", "RW  8 FLAT \"a\"  0", "RW 8 VMFS \"a\" partitionUUID 0 x",
        "RW 8 VMFS \"a\"",
    ]) func extentLinesAreReadAsOthersDo(_ line: String) throws {
        let store = TestStore([
            "disk": VmdkBytes.descriptor([line]), "a": SparseBytes([UInt8](repeating: 7, count: 4096)),
        ])
        #expect(try Images.open(store).readBytes(at: 4095, count: 1) == [7])
    }

    @Test func quotesInTheNameOfTheOnlyFileDoNoHarm() throws {
        let text = VmdkBytes.text(["RW 64 SPARSE \"q\"q.vmdk\""], createType: "monolithicSparse")
        var file = VmdkBytes.sparse(sectors: 64, descriptor: text, grains: [0: 64])
        file.write([UInt8](repeating: 9, count: 4096), at: 64 * 512)
        let store = TestStore(["q\"q.vmdk": file])
        #expect(try Images.open(store, "q\"q.vmdk").readBytes(at: 0, count: 1) == [9])
    }

    /// The cylinders follow the size; without heads there are none.
    @Test(arguments: [("16", "63", 20_000, 19), ("255", "63", 64_260, 4), ("0", "63", 20_000, nil)])
    func theGeometryFollowsTheSize(_ heads: String, _ track: String, _ sectors: Int, _ cylinders: Int?) throws
    {
        let geometry = [
            "ddb.geometry.cylinders = \"1\"", "ddb.geometry.heads = \"\(heads)\"",
            "ddb.geometry.sectors = \"\(track)\"",
        ]
        var file = VmdkBytes.descriptor(["RW 2016 FLAT \"a\" 0"])
        file.write(Array((geometry.joined(separator: "\n") + "\n").utf8), at: file.count)
        let store = TestStore(["disk": file, "a": SparseBytes([UInt8](repeating: 7, count: 2016 * 512))])
        try Self.resize(store, to: sectors * 512)
        let line = "ddb.geometry.cylinders = \"\(cylinders ?? 1)\""
        #expect(try Self.lines(store).contains(Array(line.utf8)))
        try Self.resize(store, to: 1008 * 512)
        let small = "ddb.geometry.cylinders = \"\(cylinders == nil ? 1 : heads == "16" ? 1 : 0)\""
        #expect(try Self.lines(store).contains(Array(small.utf8)))
    }

    /// A check looks at the image and not at what shows through.
    @Test func aChangedParentIsNoReasonNotToCheck() throws {
        var configuration = VmdkTests.overlays[0]
        configuration.virtualSize = 1 << 20
        let store = TestStore()
        _ = try configuration.create(in: store)
        let opener = Images.opener(store)
        let base = try opener.open("base", settings: OpenSettings(readOnly: false))
        try base.write([UInt8(1)].span.bytes, at: 0)
        try base.close()
        #expect(throws: BlockError.self) { try opener.open("disk") }
        #expect(try Images.check(store) == CheckResult())
    }

    /// A line that lies across two sectors is never old in one and new in the other.
    @Test func aLineAcrossSectorsIsWrittenAtOnce() throws {
        let plain = VmdkBytes.descriptor(["RW 8 FLAT \"a\" 0"])
        let text = plain.read(at: 0, count: plain.count)
        let line = try #require(text.firstRange(of: Array("RW 8 FLAT".utf8))).lowerBound
        let pad = [0x23] + [UInt8](repeating: 0x78, count: 505 - line - 2) + [10]
        let old = SparseBytes(text[..<line] + pad + text[line...])
        let before = ["disk": old, "a": SparseBytes([UInt8](repeating: 7, count: 4096))]
        let store = TestStore(before)
        let node = try Images.open(store, readOnly: false)
        try node.resize(to: 1_024_000)
        try node.close()
        // As a kill between any two calls leaves the files.
        let killed = TestStore(before)
        var lengths: Set<Int> = []
        for event in store.log {
            switch event {
            case .write(let file, let offset, let bytes): killed[file]?.write(bytes, at: offset)
            case .zero(let file, let range): killed[file]?.zero(range)
            case .truncate(let file, let length): killed[file]?.resize(to: length)
            case .flush: continue
            }
            lengths.insert(try Images.open(TestStore(killed.files)).length())
        }
        #expect(lengths == [4096, 1_024_000])
    }

    // MARK: Two sizes

    /// No resizing leaves a header that says less than the descriptor: the tables tell which is right.
    @Test func aHeaderThatLostSectorsGetsThemBack() throws {
        let whole = Images.single([0: 64, 400: 72])
        var file = whole
        VmdkBytes.put(1024, 8, 12, &file)
        let store = TestStore(["disk": file])
        #expect(try Images.check(store).corruptions == 1)
        #expect(try Images.check(store, .leaks).corruptions == 1)
        #expect(try #require(store["disk"]) == file)
        let repaired = try Images.check(store, .all)
        #expect(repaired.corruptions == 0 && repaired.leaks == 0 && repaired.corruptionsFixed == 1)
        #expect(try #require(store["disk"]) == whole)
        #expect(try Images.check(store) == CheckResult())
        #expect(try Images.open(store).readBytes(at: 400 * 4096, count: 1) == [145])
    }

    /// Where the tables do not fit the descriptor either, nothing is touched.
    @Test func aDescriptorThatDoesNotFitIsNotBelieved() throws {
        var file = Images.single([0: 64, 400: 100_000])
        VmdkBytes.put(1024, 8, 12, &file)
        let store = TestStore(["disk": file])
        #expect(try Images.check(store, .all).corruptions == 1)
        #expect(try #require(store["disk"]) == file)
        try Self.resize(store, to: 512 * 512)
        #expect(try Images.check(store) == CheckResult())
    }

    /// Killed anywhere, shrinking and growing leave a header that counts.
    @Test(arguments: [1 << 20, 3 << 20]) func anInterruptedResizingIsMended(_ size: Int) throws {
        for number in 1..<100 {
            let store = TestStore(["disk": Images.single([0: 64, 400: 72])])
            let node = try Images.open(store, readOnly: false)
            store.faults.arm(number, .fullFromThen)
            let hasFailed = (try? node.resize(to: size)) == nil
            store.faults.disarm()
            // As a killed program leaves it.
            let left = TestStore(store.files)
            try? node.close()
            _ = try Images.check(left, .all)
            #expect(try Images.check(left) == CheckResult(), "\(number)")
            let length = try Images.open(left).length()
            #expect([size, 4096 * 512].contains(length), "\(number)")
            #expect(try Images.open(left).readBytes(at: 0, count: 1) == [1])
            if length > 400 * 4096 && size < length {
                #expect(try Images.open(left).readBytes(at: 400 * 4096, count: 1) == [145])
            }
            if !hasFailed {
                #expect(number > 4, "Nothing was interrupted")
                return
            }
        }
        Issue.record("It never succeeded")
    }
}
