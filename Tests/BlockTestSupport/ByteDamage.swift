/// Bytes of an image that are changed, by the name of the field, and what has to come of it.
///
/// Tests take a table of these as arguments, and so name the one that failed.
public struct ByteDamage<Expectation: Sendable>: Sendable, CustomStringConvertible {
    public var name: String
    public var offset: Int
    public var bytes: [UInt8]
    public var expectation: Expectation

    public init(_ name: String, at offset: Int, _ bytes: [UInt8], _ expectation: Expectation) {
        self.name = name
        self.offset = offset
        self.bytes = bytes
        self.expectation = expectation
    }

    public var description: String { name }

    /// The image with this damage.
    public func applied(to image: SparseBytes) -> SparseBytes {
        var image = image
        image.write(bytes, at: offset)
        return image
    }
}

extension ByteDamage where Expectation == Void {
    /// Fields with several values each, which are refused.
    public static func table(_ fields: (name: String, offset: Int, values: [[UInt8]])...) -> [Self] {
        fields.flatMap { field in
            field.values.map { bytes in
                let text = bytes.map { String($0, radix: 16) }.joined(separator: " ")
                return Self("\(field.name): \(text)", at: field.offset, bytes, ())
            }
        }
    }
}
