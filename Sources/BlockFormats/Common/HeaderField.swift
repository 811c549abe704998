import BlockCore

/// The order of the bytes of a header's numbers.
enum HeaderByteOrder: Sendable {
    case big
    case little
}

/// A header whose fields are stated as a list.
protocol FieldedHeader: Sendable {
    static var byteOrder: HeaderByteOrder { get }
    /// All fields, for the format's page.
    static var allFields: [HeaderField<Self>] { get }
}

extension FieldedHeader {
    /// Reads all fields, in the order of the list.
    ///
    /// - Throws: `corrupt` or `unsupported`, depending on the field.
    mutating func readFields(_ bytes: RawSpan) throws(BlockError) {
        for field in Self.allFields { try field.read(bytes, into: &self) }
    }

    /// Writes all fields that have properties; other bytes stay unchanged.
    func writeFields(to bytes: inout MutableRawSpan) {
        for field in Self.allFields { field.write(self, to: &bytes) }
    }

    /// `bytes` with all fields that have properties.
    func fieldBytes(over bytes: [UInt8]) -> [UInt8] {
        var result = bytes
        var elements = result.mutableSpan
        var span = elements.mutableBytes
        writeFields(to: &span)
        return result
    }

    /// All fields that have properties, in `count` bytes that are otherwise zero.
    func fieldBytes(count: Int) -> [UInt8] { fieldBytes(over: [UInt8](repeating: 0, count: count)) }
}

/// A field of a header, stated once: its offset, its width and the property with its value. Used to read it,
/// to write it, and to print the table of the format's page.
struct HeaderField<Header: FieldedHeader>: Sendable {
    /// The name in the specification.
    let name: String
    /// The offset from the start of the header, in bytes; the ``width`` of a number is 1, 2, 4 or 8 bytes.
    let offset: Int
    let width: Int
    /// The description on the format's page.
    let meaning: String
    private let property: Property

    /// How the header's property is written and read.
    private enum Property: Sendable {
        case none
        case number(
            @Sendable (Header) -> UInt64, @Sendable (inout Header, UInt64) throws(BlockError) -> Void)
        case bytes(
            @Sendable (Header) -> [UInt8], @Sendable (inout Header, [UInt8]) throws(BlockError) -> Void)
    }

    private init(_ name: String, _ range: Range<Int>, _ meaning: String, _ property: Property) {
        self.name = name
        offset = range.lowerBound
        width = range.count
        self.meaning = meaning
        self.property = property
    }

    /// - Parameters:
    ///   - value: the number to write; the bits above the width are dropped.
    ///   - take: stores the number that was read, or throws when the number is invalid.
    init(
        _ name: String, at offset: Int, width: Int, _ meaning: String,
        value: @escaping @Sendable (Header) -> UInt64,
        take: @escaping @Sendable (inout Header, UInt64) throws(BlockError) -> Void = { _, _ in }
    ) {
        self.init(name, offset..<offset + width, meaning, .number(value, take))
    }

    /// A field whose property is made of bytes: text, a digest.
    ///
    /// - Parameters:
    ///   - bytes: the bytes to write; those beyond the width are dropped.
    ///   - take: stores the bytes that were read, or throws when they are invalid.
    init(
        _ name: String, at offset: Int, width: Int, _ meaning: String,
        bytes: @escaping @Sendable (Header) -> [UInt8],
        take: @escaping @Sendable (inout Header, [UInt8]) throws(BlockError) -> Void = { _, _ in }
    ) {
        self.init(name, offset..<offset + width, meaning, .bytes(bytes, take))
    }

    /// A field without a property: ``read(_:into:)`` and ``write(_:to:)`` leave it alone.
    init(_ name: String, at offset: Int, width: Int, _ meaning: String) {
        self.init(name, offset..<offset + width, meaning, .none)
    }

    /// A field whose property is a UUID; in a little-endian header its first three numbers are little-endian.
    init(
        _ name: String, at offset: Int, _ path: any WritableKeyPath<Header, ImageUUID> & Sendable,
        _ meaning: String
    ) {
        self.init(
            name, at: offset, width: 16, meaning, bytes: { Self.bytes(of: $0[keyPath: path]) },
            take: { $0[keyPath: path] = Self.uuid($1) })
    }

    /// A field whose property is a number of any type.
    ///
    /// - Parameters:
    ///   - label: the field's name in messages.
    ///   - limit: the largest valid number, where the property could hold larger ones.
    ///   - tooLarge: the message about a larger number; by default one with the label.
    init<Value: FixedWidthInteger & Sendable>(
        _ name: String, at offset: Int, width: Int, _ path: any WritableKeyPath<Header, Value> & Sendable,
        _ meaning: String, label: String? = nil, atMost limit: UInt64 = .max,
        tooLarge: (@Sendable (UInt64) -> String)? = nil
    ) {
        let label = label ?? name
        self.init(
            name, at: offset, width: width, meaning,
            value: { UInt64(truncatingIfNeeded: $0[keyPath: path]) },
            take: { (header, number) throws(BlockError) in
                guard let value = Value(exactly: number), number <= limit else {
                    throw BlockError(.corrupt, tooLarge?(number) ?? "\(label) is too large")
                }
                header[keyPath: path] = value
            })
    }

    /// The bytes of the field, from the start of the header.
    var range: Range<Int> { offset..<offset + width }

    // MARK: Reading

    /// The number at this field in the bytes of a header; 0 past their end.
    ///
    /// - Parameter start: the offset of the header in `bytes`.
    func number(in bytes: RawSpan, from start: Int = 0) -> UInt64 {
        switch width {
        case 1: load(UInt8.self, from: bytes, start)
        case 2: load(UInt16.self, from: bytes, start)
        case 4: load(UInt32.self, from: bytes, start)
        default: load(UInt64.self, from: bytes, start)
        }
    }

    func number(in bytes: [UInt8], from start: Int = 0) -> UInt64 {
        number(in: bytes.span.bytes, from: start)
    }

    private func load<Number: FixedWidthInteger & BitwiseCopyable>(
        _ type: Number.Type, from bytes: RawSpan, _ start: Int
    ) -> UInt64 {
        switch Header.byteOrder {
        case .big: UInt64(truncatingIfNeeded: bytes.bigEndian(type, at: start + offset) ?? 0)
        case .little: UInt64(truncatingIfNeeded: bytes.littleEndian(type, at: start + offset) ?? 0)
        }
    }

    /// The bytes of this field; none past the end.
    func bytes(in bytes: RawSpan, from start: Int = 0) -> [UInt8] {
        bytes.part(start + offset..<start + offset + width)?.array ?? []
    }

    /// The text of this field, up to a zero.
    func text(in bytes: RawSpan) -> String {
        String(decoding: self.bytes(in: bytes).prefix { $0 != 0 }, as: UTF8.self)
    }

    /// The UUID at this field; all zeroes past the end.
    func uuid(in bytes: RawSpan, from start: Int = 0) -> ImageUUID {
        Self.uuid(self.bytes(in: bytes, from: start))
    }

    private static func uuid(_ bytes: [UInt8]) -> ImageUUID {
        Header.byteOrder == .little ? ImageUUID(mixedEndian: bytes) : ImageUUID(bytes: bytes)
    }

    private static func bytes(of uuid: ImageUUID) -> [UInt8] {
        Header.byteOrder == .little ? uuid.mixedEndian : uuid.bytes
    }

    /// Reads the field into its property.
    ///
    /// - Throws: `corrupt` or `unsupported`, depending on the field.
    func read(_ bytes: RawSpan, into header: inout Header) throws(BlockError) {
        switch property {
        case .none: break
        case .number(_, let take): try take(&header, number(in: bytes))
        case .bytes(_, let take): try take(&header, self.bytes(in: bytes))
        }
    }

    // MARK: Writing

    /// Writes the field if it has a property and all of it lies in `bytes`.
    func write(_ header: Header, to bytes: inout MutableRawSpan) {
        switch property {
        case .none: break
        case .number(let value, _): store(value(header), in: &bytes)
        case .bytes(let value, _): store(value(header), in: &bytes)
        }
    }

    /// Stores `number`, without the bits above the width, if all of the field lies in `bytes`.
    ///
    /// - Parameter start: the offset of the header in `bytes`.
    func store(_ number: UInt64, in bytes: inout MutableRawSpan, from start: Int = 0) {
        let place = start + offset
        guard place + width <= bytes.byteCount else { return }
        switch width {
        case 1: put(UInt8(truncatingIfNeeded: number), at: place, in: &bytes)
        case 2: put(UInt16(truncatingIfNeeded: number), at: place, in: &bytes)
        case 4: put(UInt32(truncatingIfNeeded: number), at: place, in: &bytes)
        default: put(number, at: place, in: &bytes)
        }
    }

    func store(_ number: UInt64, in bytes: inout [UInt8], from start: Int = 0) {
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        store(number, in: &span, from: start)
    }

    /// Stores `content` at the start of the field, without the bytes beyond the width, if all of the field
    /// lies in `bytes`.
    func store(_ content: [UInt8], in bytes: inout MutableRawSpan) {
        guard offset + width <= bytes.byteCount else { return }
        bytes.copy(from: content.span.bytes.extracting(0..<min(width, content.count)), at: offset)
    }

    private func put<Number: FixedWidthInteger & BitwiseCopyable>(
        _ number: Number, at place: Int, in bytes: inout MutableRawSpan
    ) {
        switch Header.byteOrder {
        case .big: bytes.storeBigEndian(number, at: place)
        case .little: bytes.storeLittleEndian(number, at: place)
        }
    }
}

extension Array {
    /// The fields as a table of Markdown, in the order of the file.
    func headerTable<Header: FieldedHeader>() -> String where Element == HeaderField<Header> {
        let rows = sorted { $0.offset < $1.offset }
            .map { "| \($0.offset) | \($0.width) | `\($0.name)` | \($0.meaning) |\n" }
        return "| Offset | Bytes | Field | Meaning |\n|---|---|---|---|\n" + rows.joined()
    }
}
