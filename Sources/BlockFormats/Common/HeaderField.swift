import BlockCore

/// A number in a header, stated once: its offset, its width and the property with its value. Used to read it,
/// to write it, and to print the table of the format's page.
struct HeaderField<Header>: Sendable {
    /// The name in the specification.
    let name: String
    /// The offset from the start of the header, in bytes; ``width`` is 1, 2, 4 or 8 bytes.
    let offset: Int
    let width: Int
    /// The description on the format's page.
    let meaning: String
    private let value: @Sendable (Header) -> UInt64
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

    /// A field whose property is a number of any type.
    ///
    /// - Parameter label: the field's name in messages.
    init<Value: FixedWidthInteger & Sendable>(
        _ name: String, at offset: Int, width: Int, _ path: any WritableKeyPath<Header, Value> & Sendable,
        _ meaning: String, label: String? = nil
    ) {
        let label = label ?? name
        self.init(
            name, at: offset, width: width, meaning,
            value: { UInt64(truncatingIfNeeded: $0[keyPath: path]) },
            take: { (header, number) throws(BlockError) in
                guard let value = Value(exactly: number) else {
                    throw BlockError(.corrupt, "\(label) is too large")
                }
                header[keyPath: path] = value
            })
    }

    /// The number at this field in the bytes of a header; 0 past their end.
    func number(in bytes: RawSpan) -> UInt64 {
        switch width {
        case 1: UInt64(bytes.bigEndian(UInt8.self, at: offset) ?? 0)
        case 2: UInt64(bytes.bigEndian(UInt16.self, at: offset) ?? 0)
        case 4: UInt64(bytes.bigEndian(UInt32.self, at: offset) ?? 0)
        default: bytes.bigEndian(UInt64.self, at: offset) ?? 0
        }
    }

    /// Reads the field into its property.
    ///
    /// - Throws: `corrupt` or `unsupported`, depending on the field.
    func read(_ bytes: RawSpan, into header: inout Header) throws(BlockError) {
        try take(&header, number(in: bytes))
    }

    /// Writes the field if all of it lies in `bytes`.
    func write(_ header: Header, to bytes: inout MutableRawSpan) {
        guard offset + width <= bytes.byteCount else { return }
        let number = value(header)
        switch width {
        case 1: bytes.storeBigEndian(UInt8(truncatingIfNeeded: number), at: offset)
        case 2: bytes.storeBigEndian(UInt16(truncatingIfNeeded: number), at: offset)
        case 4: bytes.storeBigEndian(UInt32(truncatingIfNeeded: number), at: offset)
        default: bytes.storeBigEndian(number, at: offset)
        }
    }
}

extension Array {
    /// The fields as a table of Markdown, in the order of the file.
    func headerTable<Header>() -> String where Element == HeaderField<Header> {
        let rows = sorted { $0.offset < $1.offset }
            .map { "| \($0.offset) | \($0.width) | `\($0.name)` | \($0.meaning) |\n" }
        return "| Offset | Bytes | Field | Meaning |\n|---|---|---|---|\n" + rows.joined()
    }
}
