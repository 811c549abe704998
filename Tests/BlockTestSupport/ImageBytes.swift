/// Builds the bytes of an image by its description: numbers at the offsets of fields, text, filled ranges.
///
/// Nothing of a driver's own is used. Offsets and lengths are in bytes. A value type.
public struct ImageBytes: Sendable {
    public enum Order: Sendable {
        case big
        case little
    }

    /// How the format stores numbers.
    public let order: Order
    /// The file so far.
    public private(set) var file: SparseBytes

    /// `count` zero bytes to begin with.
    public init(_ order: Order, count: Int = 0) { self.init(order, SparseBytes(count: count)) }

    /// The bytes of an image that is there.
    public init(_ order: Order, _ file: SparseBytes) {
        self.order = order
        self.file = file
    }

    // MARK: Numbers as bytes

    /// The bytes of a number, as many as its type has.
    public static func big(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { [UInt8]($0) }
    }

    /// The bytes of a number, as many as its type has.
    public static func little(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { [UInt8]($0) }
    }

    /// The lowest `bytes` bytes of a number.
    public static func number(_ value: some BinaryInteger, bytes: Int, _ order: Order) -> [UInt8] {
        let little = (0..<bytes).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
        return order == .little ? little : little.reversed()
    }

    // MARK: Changing

    /// Stores a number in `bytes` bytes.
    public mutating func put(_ value: some BinaryInteger, at offset: Int, bytes: Int = 4) {
        file.write(Self.number(value, bytes: bytes, order), at: offset)
    }

    public mutating func put(_ text: String, at offset: Int) { file.write(Array(text.utf8), at: offset) }
    public mutating func put(_ bytes: [UInt8], at offset: Int) { file.write(bytes, at: offset) }

    /// Stores `count` times the same byte.
    public mutating func fill(_ byte: UInt8, count: Int, at offset: Int) {
        file.write([UInt8](repeating: byte, count: count), at: offset)
    }

    /// Cuts the file, or makes it longer with zeroes.
    public mutating func truncate(to length: Int) { file.resize(to: length) }

    // MARK: Reading

    /// The number in `bytes` bytes.
    public func number(at offset: Int, bytes: Int = 4) -> UInt64 {
        let stored = file.read(at: offset, count: bytes)
        return (order == .big ? stored : stored.reversed()).reduce(0) { $0 << 8 | UInt64($1) }
    }
}
