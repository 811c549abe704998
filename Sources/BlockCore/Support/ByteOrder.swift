/// Loads and stores of fixed-width integers, bounds-checked. `nil` / `false` when out of bounds.
extension RawSpan {
    /// The big-endian integer at `offset`, or `nil` past the end.
    @inlinable
    public func bigEndian<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type = T.self, at offset: Int
    ) -> T? {
        guard offset >= 0, byteCount >= MemoryLayout<T>.size, offset <= byteCount - MemoryLayout<T>.size
        else { return nil }
        return T(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// The little-endian integer at `offset`, or `nil` past the end.
    @inlinable
    public func littleEndian<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type = T.self, at offset: Int
    ) -> T? {
        guard offset >= 0, byteCount >= MemoryLayout<T>.size, offset <= byteCount - MemoryLayout<T>.size
        else { return nil }
        return T(littleEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// The part `range`, or `nil` when any of it is outside.
    @inlinable
    @_lifetime(copy self)
    public func part(_ range: Range<Int>) -> RawSpan? {
        guard range.lowerBound >= 0, range.upperBound <= byteCount else { return nil }
        return extracting(range)
    }

    /// The bytes in `range` as text (see ``RawText``), or `nil` when any of it is outside.
    public func text(_ range: Range<Int>) -> String? {
        guard let bytes = part(range) else { return nil }
        return bytes.withUnsafeBytes { String(raw: $0) }
    }
}

extension MutableRawSpan {
    /// Stores a big-endian integer.
    ///
    /// Traps past the end: the caller has checked the size.
    @inlinable
    public mutating func storeBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
    }

    /// Stores a little-endian integer.
    ///
    /// Traps past the end: the caller has checked the size.
    @inlinable
    public mutating func storeLittleEndian<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int)
    {
        storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
}

extension Int {
    /// `self` rounded up to a multiple of `unit` (> 0), or `nil` on overflow.
    @inlinable
    public func roundedUp(to unit: Int) -> Int? {
        let rest = self % unit
        guard rest != 0 else { return self }
        let (sum, overflow) = addingReportingOverflow(unit - rest)
        return overflow ? nil : sum
    }

    /// `self` rounded down to a multiple of `unit` (> 0); `self` is not negative.
    @inlinable
    public func roundedDown(to unit: Int) -> Int { self - self % unit }

    /// Whether `self` is a power of two.
    public var isPowerOfTwo: Bool { self > 0 && self & (self - 1) == 0 }
}
