import BlockCore
import BlockTestSupport
import Testing

@Suite struct OptionTests {
    private func pairs(_ text: String) throws -> [String] {
        try OptionList.parse(text).map { "\($0.key)|\($0.value)" }
    }

    @Test func listsAreSplitAtSingleCommas() throws {
        #expect(try pairs("a=1,b=2") == ["a|1", "b|2"])
        #expect(try pairs("a=x,,y,b") == ["a|x,y", "b|on"])
        #expect(try pairs("a=,,,b=1") == ["a|,", "b|1"])
        #expect(try pairs("a==b") == ["a|=b"])
        #expect(try pairs("a=") == ["a|"])
        #expect(try pairs("") == [])
        #expect(throws: BlockError.self) { try pairs("=1") }
    }

    @Test func helpIsSeen() {
        #expect(OptionList.asksForHelp("help"))
        #expect(OptionList.asksForHelp("a=1,?"))
        #expect(!OptionList.asksForHelp("a=help"))
        #expect(!OptionList.asksForHelp("a=1,,help"))
    }

    @Test func treesGiveOutTheirKeysOnce() throws {
        var tree = try OptionTree.parse("a=1,b.c=2,b.d.e=3,flag=on,size=4k,a=5")
        #expect(tree.take("a") == "5")
        #expect(tree.take("a") == nil)
        let subtree = tree.takeSubtree("b")
        #expect(subtree["c"] == "2" && subtree["d.e"] == "3")
        #expect(try tree.takeFlag("flag") == true)
        #expect(try tree.takeSize("size") == 4096)
        #expect(tree.isEmpty)
        tree["size"] = "-1"
        #expect(throws: BlockError.self) { try tree.takeSize("size") }
        tree["flag"] = "maybe"
        #expect(throws: BlockError.self) { try tree.takeFlag("flag") }
    }

    @Test func defaultsDoNotReplace() throws {
        var tree = try OptionTree.parse("a=1")
        tree.addDefaults(try OptionTree.parse("a=2,b=3"))
        #expect(tree["a"] == "1" && tree["b"] == "3")
    }

    @Test func jsonBecomesDottedKeys() throws {
        let tree = try JSONReader.options(
            #" { "a" : "x\n\"\u00e9\ud83d\ude00", "b": {"c": 1.5, "d": [true, {"e": false}]},"#
                + #" "f": -2, 'g': {} } "#
        )
        #expect(tree["a"] == "x\n\"é😀")
        #expect(
            tree["b.c"] == "1.5" && tree["b.d.0"] == "on" && tree["b.d.1.e"] == "off" && tree["f"] == "-2")
        #expect(tree.keys.count == 5)
    }

    @Test func jsonTakesEitherQuote() throws {
        let tree = try JSONReader.options("{'a': 'it\\'s \\\"x\\\"', \n\t\"b\": {'c':\r\n\"d'e\"}}")
        #expect(tree["a"] == "it's \"x\"" && tree["b.c"] == "d'e" && tree.keys.count == 2)
    }

    @Test(arguments: [
        "{'a':'b\"}", "{'a\":1}", "{'a':'b'c'}",
        "", "{", "[]", "1", "{}}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\":\"b}", "{\"a\":\"\\",
        "{\"a\":tru}",
        "{\"a\":\"\\u12\"}", "{\"a\":\"\\q\"}", "{\"a\":\"\\u0000\"}", "{\"a\":[1}", "{\"a\":1 \"b\":2}",
        "{\"a\":\"x\0y\"}",
        "{\"\\", "{\"\\u", "\u{0}", "{\"a\":nan}", "{\"a\":+}",
    ])
    func badJSONIsRefused(_ text: String) {
        #expect(throws: BlockError.self) { try JSONReader.options(text) }
    }

    @Test(.timeLimit(.minutes(1)))
    func hostileJSONIsRefusedQuickly() {
        let deep = String(repeating: "{\"a\":", count: 10_000)
        #expect(throws: BlockError.self) { try JSONReader.options(deep) }
        let arrays = "{\"a\":" + String(repeating: "[", count: 20_000)
        #expect(throws: BlockError.self) { try JSONReader.options(arrays) }
        let long = "{\"a\":\"" + String(repeating: "x", count: 70_000) + "\"}"
        #expect((blockError { () throws(BlockError) in try JSONReader.options(long) })?.kind == .limit)
        let began = ContinuousClock.now
        let wide = "{" + (0..<6000).map { "\"\($0)\":1" }.joined(separator: ",") + "}"
        _ = try? JSONReader.options(wide)
        #expect(ContinuousClock.now - began < .seconds(20))
    }

    @Test func anyBytesAsJSONDoNotCrash() {
        var random = SeededRandom(seed: TestEffort.seed)
        let pieces = [
            "{", "}", "[", "]", "\"", ":", ",", "\\", "u", "d800", "a", "1", "true", " ", "'", "\0",
        ]
        for _ in 0..<3000 {
            let text = (0..<random.number(in: 0..<30)).map { _ in pieces[random.number(in: 0..<pieces.count)]
            }
            _ = try? JSONReader.options("{" + text.joined())
            _ = try? OptionTree.parse(text.joined())
            _ = SizeParser.parse(text.joined())
        }
    }

    private var declared: CreateOptions {
        CreateOptions([
            CreateOption(.size, .size, help: ""), CreateOption(.compat, .string, default: "1.1", help: ""),
            CreateOption(.lazyRefcounts, .bool, help: ""), CreateOption(.refcountBits, .number, help: ""),
            CreateOption(.preallocation, .string, default: "off", help: ""),
        ])
    }

    @Test func createOptionsAreCheckedAndNormalised() throws {
        var options = declared
        try options.set(name: "size", to: "1.5k")
        try options.set(name: "lazy_refcounts", to: "yes")
        try options.set(name: "refcount_bits", to: "0x10")
        #expect(options.integer(.size) == 1536 && options.flag(.lazyRefcounts))
        #expect(options.integer(.refcountBits) == 16 && options[.compat] == "1.1")
        #expect(
            options.shown.map { "\($0.key.rawValue)=\($0.value)" } == [
                "size=1536", "compat=1.1", "lazy_refcounts=on", "refcount_bits=16", "preallocation=off",
            ])
        let error = blockError { () throws(BlockError) in try options.set(.backingFile, to: "x") }
        #expect(error?.kind == .invalidArgument && error?.message == "Invalid parameter 'backing_file'")
        #expect(options[.backingFile] == nil && !options.declares(.backingFile))
    }

    @Test(arguments: [
        ("size", "x"), ("size", "-1"), ("size", "8E"), ("lazy_refcounts", "maybe"), ("refcount_bits", "many"),
        ("refcount_bits", "18446744073709551615"), ("backing_file", "x"), ("nope", "1"), ("", ""),
    ])
    func badCreateOptionsAreRefused(_ name: String, _ value: String) {
        var options = declared
        #expect(
            blockError { () throws(BlockError) in try options.set(name: name, to: value) }?.kind
                == .invalidArgument)
    }

    @Test func preallocationIsOneOfThoseAllowed() throws {
        var options = declared
        #expect(try options.preallocation() == .off)
        try options.set(.preallocation, to: "falloc")
        #expect(try options.preallocation() == .falloc)
        #expect(throws: BlockError.self) { try options.preallocation(allowed: [.off, .full]) }
        try options.set(.preallocation, to: "some")
        #expect(throws: BlockError.self) { try options.preallocation() }
    }
}

/// Options that the driver of these tests declares.
extension CreateOptionKey {
    fileprivate static let compat = CreateOptionKey("compat")
    fileprivate static let lazyRefcounts = CreateOptionKey("lazy_refcounts")
    fileprivate static let refcountBits = CreateOptionKey("refcount_bits")
}
