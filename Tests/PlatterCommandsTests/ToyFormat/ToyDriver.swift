import BlockCore

/// A format that a test adds: a sector of magic, size and a note, then the disk as it is.
///
/// All that it takes is in this folder, and one line in a list.
final class ToyDriver: FormatDriver {
    static let name = "toy"

    private static let magic = Array("TOYDISK1".utf8)
    private static let headerBytes = 512
    private static let noteRange = 16..<48

    private let file: BlockNode
    private let note: String
    let virtualSize: Int

    private init(_ file: BlockNode, size: Int, note: String) {
        self.file = file
        self.note = note
        virtualSize = size
    }

    static func probe(_ header: RawSpan, filename: String) -> Int {
        header.text(0..<8) == String(decoding: magic, as: UTF8.self) ? 100 : 0
    }

    static func open(_ request: OpenRequest, options: inout OptionTree) throws(BlockError) -> ToyDriver {
        let bytes = try request.file.readBytes(at: 0, count: headerBytes)
        let header = bytes.span.bytes
        guard probe(header, filename: "") > 0, let size = header.bigEndian(UInt64.self, at: 8),
            size <= 1 << 40
        else { throw BlockError(.wrongFormat, "Not a toy image", path: request.file.filename) }
        let note = String(decoding: bytes[noteRange].prefix { $0 != 0 }, as: UTF8.self)
        return ToyDriver(request.file, size: Int(size), note: note)
    }

    var writeGranularity: Int { 1 }
    var dataMayBeHoles: Bool { true }

    func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: Self.headerBytes + offset), length: limit)
    }

    func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        WriteGrant(inPlace: guest, at: Self.headerBytes + guest.lowerBound, in: file)
    }

    func flush() throws(BlockError) { try file.flush() }
    func close() throws(BlockError) {}

    func describe() throws(BlockError) -> FormatInfo {
        FormatInfo(specific: [InfoField("note", .text(note))])
    }
}

extension CreateOptionKey {
    static let toyNote = CreateOptionKey("toy_note")
}

extension ToyDriver: Creatable {
    static var createOptions: [CreateOption] {
        [
            CreateOption(.size, .size, help: "Virtual disk size"),
            CreateOption(.toyNote, .string, default: "none", help: "A few words"),
        ]
    }

    static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let size = options.integer(.size) ?? 0
        var header = magic
        for shift in stride(from: 56, through: 0, by: -8) {
            header.append(UInt8(truncatingIfNeeded: size >> shift))
        }
        header += Array((options[.toyNote] ?? "").utf8).prefix(noteRange.count)
        header += [UInt8](repeating: 0, count: headerBytes - header.count)
        let file = try context.createFile(size: headerBytes + size)
        try file.write(header.span.bytes, at: 0)
        try file.close()
    }
}
