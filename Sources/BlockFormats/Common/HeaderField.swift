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
    /// The number to write; `nil` for a field that the header has no property for.
    private let value: (@Sendable (Header) -> UInt64)?
    private let take: @Sendable (inout Header, UInt64) throws(BlockError) -> Void

    /// - Parameters:
    ///   - value: the number to write; the bits above the width are dropped.
    ///   - take: stores the number that was read, or throws when the number is invalid.
    init(
        _ name: String, at offset: Int, width: Int, _ meaning: String,
        value: @escaping @Sendable (Header) -> UInt64,
        take: @escaping @Sendable (inout Header, UInt64) throws(BlockError) -> Void = { _, _ in }
    ) {
        self.name = name
        self.offset = offset
        self.width = width
        self.meaning = meaning
        self.value = value
        self.take = take
    }

    /// A field without a property: ``read(_:into:)`` and ``write(_:to:)`` leave it alone.
    init(_ name: String, at offset: Int, width: Int, _ meaning: String) {
        self.name = name
        self.offset = offset
        self.width = width
        self.meaning = meaning
        value = nil
        take = { _, _ in }
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

    /// The number at this field in the bytes of a header; 0 past their end.
    func number(in bytes: RawSpan) -> UInt64 {
        switch width {
        case 1: load(UInt8.self, from: bytes)
        case 2: load(UInt16.self, from: bytes)
        case 4: load(UInt32.self, from: bytes)
        default: load(UInt64.self, from: bytes)
        }
    }

    func number(in bytes: [UInt8]) -> UInt64 { number(in: bytes.span.bytes) }

    private func load<Number: FixedWidthInteger & BitwiseCopyable>(
        _ type: Number.Type, from bytes: RawSpan
    ) -> UInt64 {
        switch Header.byteOrder {
        case .big: UInt64(truncatingIfNeeded: bytes.bigEndian(type, at: offset) ?? 0)
        case .little: UInt64(truncatingIfNeeded: bytes.littleEndian(type, at: offset) ?? 0)
        }
    }

    /// Reads the field into its property.
    ///
    /// - Throws: `corrupt` or `unsupported`, depending on the field.
    func read(_ bytes: RawSpan, into header: inout Header) throws(BlockError) {
        try take(&header, number(in: bytes))
    }

    /// Writes the field if it has a property and all of it lies in `bytes`.
    func write(_ header: Header, to bytes: inout MutableRawSpan) {
        guard let value else { return }
        store(value(header), in: &bytes)
    }

    /// Stores `number`, without the bits above the width, if all of the field lies in `bytes`.
    func store(_ number: UInt64, in bytes: inout MutableRawSpan) {
        guard offset + width <= bytes.byteCount else { return }
        switch width {
        case 1: put(UInt8(truncatingIfNeeded: number), in: &bytes)
        case 2: put(UInt16(truncatingIfNeeded: number), in: &bytes)
        case 4: put(UInt32(truncatingIfNeeded: number), in: &bytes)
        default: put(number, in: &bytes)
        }
    }

    func store(_ number: UInt64, in bytes: inout [UInt8]) {
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        store(number, in: &span)
    }

    private func put<Number: FixedWidthInteger & BitwiseCopyable>(
        _ number: Number, in bytes: inout MutableRawSpan
    ) {
        switch Header.byteOrder {
        case .big: bytes.storeBigEndian(number, at: offset)
        case .little: bytes.storeLittleEndian(number, at: offset)
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
