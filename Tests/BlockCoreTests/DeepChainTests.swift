import BlockCore
import BlockTestSupport
import Testing

/// Chains are as long as memory allows, and images that lead back to themselves are refused however they do.
@Suite struct DeepChainTests {
    private let images = TestImages()

    private func chain(of count: Int) throws {
        try images.create("0", size: 65536)
        for index in 1..<count { try images.create("\(index)", size: 65536, backing: "\(index - 1)") }
    }

    /// Opening, reading, asking, closing and freeing go through thousands of layers on a small stack.
    @Test(.timeLimit(.minutes(1))) func thousandsOfLayersNeedNoDeepStack() throws {
        let count = 1200
        try chain(of: count)
        let base = try images.open("0", readOnly: false)
        let bytes = Pattern.bytes(stamp: 3, at: 0, count: 4096)
        try base.write(bytes.span.bytes, at: 8192)
        try base.close()
        // A layer in the middle hides a part, so that the runs split on the way down.
        let middle = try images.opener.open(
            "600", settings: OpenSettings(readOnly: false, withoutBacking: true))
        try middle.write(bytes.span.bytes, at: 16384)
        try middle.close()
        try WorkerThreads.run(2) { (_) throws(BlockError) in
            let node = try self.images.open("\(count - 1)")
            #expect(node.chain.count == count)
            let read = try node.readBytes(at: 0, count: 32768)
            #expect(read[8192..<12288] == bytes[...] && read[16384..<20480] == bytes[...])
            #expect(read[0..<8192].allSatisfy { $0 == 0 } && read[20480...].allSatisfy { $0 == 0 })
            #expect(try node.status(at: 8192, limit: 4096).depth == count - 1)
            try node.close()
        }
        // Never closed, only let go of.
        _ = try images.open("\(count - 1)")
    }

    @Test func shortLayersReadAsZeroesBehindTheirEnds() throws {
        images.createRaw("base", size: 6144)
        try images.create("middle", size: 4096, backing: "base")
        try images.create("low", size: 12288, backing: "middle")
        try images.create("top", size: 20480, backing: "low")
        let node = try images.open("top")
        let read = try node.readBytes(at: 0, count: 20480)
        #expect(read[..<4096] == Pattern.bytes(stamp: 1, at: 0, count: 4096)[...])
        #expect(read[4096...].allSatisfy { $0 == 0 })
    }

    @Test func aLayerThatFailsIsNamedOnce() throws {
        try chain(of: 5)
        try images.create("0", size: 65536, backing: "missing")
        let error = try #require(blockError { () throws(BlockError) in try images.open("4") })
        #expect(error.kind == .notFound)
        #expect(error.message.hasPrefix("Could not open backing file: "))
        #expect(!error.message.dropFirst(10).contains("Could not open backing file"))
    }

    /// Each names itself, in ways that hide it.
    @Test(arguments: [
        "a", "file:a", #"json:{"file.filename":"a"}"#, #"json:{"driver":"raw","file.filename":"a"}"#,
        #"json:{"driver":"raw","file":{"driver":"fake","file":{"driver":"file","filename":"a"}}}"#,
        #"json:{"driver":"fake","file":{"driver":"raw","offset":0,"file":{"filename":"a"}}}"#,
        #"json:{"driver":"raw","file":{"driver":"raw","file":{"driver":"raw","file.filename":"a"}}}"#,
        #"json:{"driver":"file","filename":"a"}"#,
        #"json:{"driver":"raw","file":{"driver":"fake","backing":{"driver":"raw","file.filename":"x"}, "#
            + #""file.filename":"a"}}"#,
    ])
    func noNameHidesALoop(_ name: String) throws {
        images.createRaw("x", size: 4096)
        try images.create("a", size: 4096, backing: name)
        let error = blockError { () throws(BlockError) in try images.open("a") }
        #expect(error?.kind == .corrupt, "\(String(describing: error))")
    }

    @Test func nestingHasALimit() throws {
        images.createRaw("x", size: 4096)
        try images.create("20", size: 4096)
        for level in 0..<20 {
            let name = #"json:{"driver":"raw","file":{"driver":"fake","file.filename":"\#(level + 1)"}}"#
            try images.create("\(level)", size: 4096, backing: name)
        }
        try images.open("0").close()
        var name = #"{"driver":"file","filename":"x"}"#
        for _ in 0..<100 { name = #"{"driver":"raw","file":\#(name)}"# }
        #expect(blockError { () throws(BlockError) in try images.open("json:" + name) }?.kind == .limit)
        // A key's levels count, whether they are nested or written with dots.
        func nested(_ levels: Int) -> String {
            String(repeating: #"{"file":"#, count: levels) + "1" + String(repeating: "}", count: levels)
        }
        #expect(try JSONReader.options(nested(200)).keys.count == 1)
        for text in [
            nested(300), nested(10000), #"{"\#(String(repeating: "a.", count: 300))b":1}"#,
            String(repeating: #"{"":"#, count: 9000),
            "{" + (0..<2000).map { #""k\#($0)":1"# }.joined(separator: ",") + "}",
        ] {
            #expect(blockError { () throws(BlockError) in try JSONReader.options(text) } != nil)
        }
        let dots = String(repeating: "file.", count: 300)
        #expect(blockError { () throws(BlockError) in try OptionTree.parse("\(dots)x=1") }?.kind == .limit)
        let flat = #"json:{"\#(String(repeating: "file.", count: 5000))filename":"x"}"#
        #expect(blockError { () throws(BlockError) in try images.open(flat) } != nil)
    }
}
