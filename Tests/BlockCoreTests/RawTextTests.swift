import BlockCore
import Testing

/// Names as bytes: text and back, and what is taken apart by bytes.
@Suite struct RawTextTests {
    static let names: [[UInt8]] = [
        [], Array("plain".utf8), Array("caf\u{E9} \u{4E2D}\u{1F4BE}".utf8), [0x63, 0x61, 0x66, 0xE9], [0x80],
        // Cut characters, too long forms, surrogates, what is beyond Unicode.
        [0xE2, 0x82], [0xC0, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xFF, 0xFE, 0x41],
        [0xE9, 0xC3, 0xA9, 0xE9],
        // Characters that stand for bytes, and their neighbours.
        [0xF4, 0x8F, 0xBE, 0x80], [0xF4, 0x8F, 0xBF, 0xBF], [0xF4, 0x8F, 0xBD, 0xBF],
        [0xF4, 0x8F, 0xBF, 0xA9],
    ]

    @Test(arguments: names) func bytesComeBack(_ bytes: [UInt8]) {
        let text = String(raw: bytes)
        #expect(text.rawBytes == bytes)
        #expect(text.hostPath.dropLast().map { UInt8(bitPattern: $0) } == bytes && text.hostPath.last == 0)
        #expect(String(rawCString: text.hostPath).rawBytes == bytes)
    }

    /// No two names are one text, all of two bytes and those with a character that stands for a byte.
    @Test func namesStayDifferent() {
        var texts: Set<[UInt8]> = []
        for first in UInt8.min...UInt8.max {
            for second in UInt8.min...UInt8.max { texts.insert(Array(String(raw: [first, second]).utf8)) }
        }
        #expect(texts.count == 65536)
        let byte = String(raw: [0xE9])
        #expect(String(raw: Array(byte.utf8)) != byte)
        #expect(!byte.isPlain && "\u{E9}\u{10FF7F}".isPlain)
        #expect(!"\u{E9}".isSameName(as: "e\u{301}") && "\u{E9}" == "e\u{301}")
    }

    @Test func pathsAreTakenApartByBytes() {
        #expect(FileNames.lastComponent("a/\u{301}b") == "\u{301}b")
        #expect(FileNames.folder(of: "a/\u{301}b") == "a/")
        #expect(FileNames.components("/a//\u{301}b/") == ["a", "\u{301}b"])
        #expect(FileNames.isAbsolute("/\u{301}"))
        #expect(FileNames.resolve("/\u{301}b", relativeTo: "x/y") == "/\u{301}b")
        #expect(FileNames.resolve("b", relativeTo: "file:x/\u{301}y") == "x/b")
        #expect(FileNames.withoutFileScheme("file:\u{301}b").isSameName(as: "\u{301}b"))
        #expect(DriverRegistry.scheme(of: "nbd:\u{301}") == "nbd")
        #expect(FileNames.relative("\u{E9}/b", from: "e\u{301}/o") == "../\u{E9}/b")
        #expect(FileNames.relative("\u{E9}/b", from: "\u{E9}/o") == "b")
    }

    @Test func besideAnImage() {
        #expect(FileNames.besideImage("C:\\x\\p.vhd") == "p.vhd")
        #expect(FileNames.besideImage("../x/p.vhd") == "p.vhd")
        #expect(FileNames.besideImage("x\\nbd:y") == "./nbd:y")
        #expect(FileNames.besideImage("x/") == "")
        #expect(FileNames.besideImage(String(raw: [0x5C, 0xE9])).rawBytes == [0xE9])
    }

    @Test func optionsAreTakenApartByBytes() throws {
        let pairs = try OptionList.parse("a=\u{301}b,\u{301}c=1,d=x,,\u{301}y")
        #expect(pairs.map(\.key) == ["a", "\u{301}c", "d"])
        #expect(pairs.map(\.value).elementsEqual(["\u{301}b", "1", "x,\u{301}y"]) { $0.isSameName(as: $1) })
    }

    /// What JSON spells out is the character, not the byte that it stands for elsewhere.
    @Test func escapesInJSONAreCharacters() throws {
        let options = try JSONReader.options(#"{"a": "\udbff\udfe9", "b": "\#(String(raw: [0xE9]))"}"#)
        #expect(options["a"]?.rawBytes == [0xF4, 0x8F, 0xBF, 0xA9])
        #expect(options["b"]?.rawBytes == [0xE9])
    }

    /// Bytes stay as they are, but for those that are control characters of 8-bit terminals.
    @Test func bytesOnATerminal() {
        #expect(PrintableText.shown(String(raw: [0x61, 0xE9])).rawBytes == [0x61, 0xE9])
        #expect(PrintableText.shown(String(raw: [0x9B, 0x32, 0x4A, 0x80])) == #"\x9b2J\x80"#)
    }

    @Test func backingFilesAreComparedByBytes() {
        let one = BackingReference(filename: "\u{E9}", format: nil)
        #expect(one != BackingReference(filename: "e\u{301}", format: nil))
        #expect(one == BackingReference(filename: "\u{E9}", format: nil))
    }
}
